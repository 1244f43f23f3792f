"""A pretrained text model that learns units: more ids, and LoRA through ``peft``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, length_mask
from speechbrain_dsu.utils.optional import require

_ROWS, _ABOUT, _ADAPTER = "rows.safetensors", "units.json", "adapter"


class MoreRows(nn.Module):
    """An embedding, or the matrix behind a model, with new rows behind the old ones.

    The old rows are the pretrained model's own and never change, whatever the
    optimiser does to weights without gradients.

    Arguments
    ---------
    old : nn.Embedding or nn.Linear
        Of the pretrained model.
    count : int
        New rows; they start around the mean of the old ones, with a tenth of their
        spread.

    Example
    -------
    >>> table = MoreRows(nn.Embedding(5, 3), 2)
    >>> table(torch.tensor([4, 5, 6])).shape
    torch.Size([3, 3])
    """

    def __init__(self, old: nn.Embedding | nn.Linear, count: int):
        super().__init__()
        self.old, self.count = old.requires_grad_(False), count
        rows = old.weight.detach().float()
        drawn = torch.randn(count, rows.shape[1]) * rows.std(0) * 0.1
        self.rows = nn.Parameter((rows.mean(0) + drawn).to(old.weight.dtype))

    @property
    def weight(self) -> Tensor:
        """All rows ``[old + new, dim]``."""
        return torch.cat([self.old.weight, self.rows])

    def forward(self, x: Tensor) -> Tensor:
        """Vectors of ids, or scores of states."""
        if isinstance(self.old, nn.Linear):
            return torch.cat([self.old(x), F.linear(x, self.rows)], -1)
        size = self.old.num_embeddings
        new = x >= size
        vectors = self.old(x.masked_fill(new, 0))
        added = F.embedding((x - size).clamp(min=0), self.rows)
        return torch.where(new.unsqueeze(-1), added, vectors)


class UnitLLM(nn.Module):
    """A causal language model of Hugging Face transformers over text and units.

    Zhang et al., "SpeechGPT" (2023), section 4: units get ids behind those of the
    text, whose ids stay; what is trained are the new rows and low-rank changes of the
    attention (Hu et al., "LoRA", 2021). Right after the extension the scores of text
    are what they were.

    Arguments
    ---------
    llm : nn.Module
        ``LlamaForCausalLM`` and its like; changed in place.
    sizes : sequence of int
        Ids of each codebook.
    rank : int
        Of the changes.
    alpha : float
        Their factor is ``alpha / rank``.
    targets : sequence of str
        Names of the layers that get them.

    Raises
    ------
    DsuError
        If ``peft`` is not installed, or no layer has such a name.

    Example
    -------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    >>> tiny |= {"num_attention_heads": 2, "vocab_size": 11}
    >>> model = UnitLLM(LlamaForCausalLM(LlamaConfig(**tiny)), sizes=(5,), rank=2)
    >>> model.vocabulary.to_ids(torch.tensor([[0]])).tolist(), model.vocabulary.size
    ([[14]], 19)
    """

    def __init__(
        self,
        llm: nn.Module,
        sizes: Sequence[int],
        rank: int = 8,
        alpha: float = 16.0,
        targets: Sequence[str] = ("q_proj", "v_proj"),
    ):
        super().__init__()
        peft = require("peft", extra="hf", needed_by="UnitLLM")
        embedding, head = llm.get_input_embeddings(), llm.get_output_embeddings()
        if getattr(head, "bias", None) is not None:
            raise DsuError("the model's output has a bias: new rows would lack theirs")
        text = embedding.num_embeddings
        self.vocabulary = Vocabulary(sizes=tuple(sizes), text=text)
        more = self.vocabulary.size - text
        llm.set_input_embeddings(MoreRows(embedding, more))
        llm.set_output_embeddings(MoreRows(head, more))
        llm.config.vocab_size = self.vocabulary.size
        # Old rows that were tied still are; new ones are learned apart.
        llm.config.tie_word_embeddings = False
        names = [name for name, _ in llm.named_modules()]
        for target in targets:
            if not any(name.split(".")[-1] == target for name in names):
                raise DsuError(f"{type(llm).__name__} has no layer named '{target}'")
        config = peft.LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=list(targets), lora_dropout=0.0
        )
        self.about = {
            "sizes": list(sizes),
            "rank": rank,
            "alpha": alpha,
            "targets": list(targets),
        }
        self.llm = peft.get_peft_model(llm, config)
        for table in self._tables():
            table.rows.requires_grad_(True)

    def forward(
        self, tokens: Tensor, lens: Tensor | None = None, counted: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Losses of whole sequences.

        Arguments
        ---------
        tokens : Tensor
            Ids ``[batch, steps]`` of text and units.
        lens : Tensor, optional
            Relative lengths ``[batch]``.
        counted : Tensor, optional
            bool ``[batch, steps]``: which ids are to be learned (an answer, not its
            question); None: all but the first.

        Returns
        -------
        dict
            ``loss``: cross-entropy in nats, mean over what counts; 0 if nothing does.
        """
        counts = absolute_lengths(lens, tokens.shape[1], len(tokens))
        mask = length_mask(counts.to(tokens.device), tokens.shape[1])
        logits = self.llm(input_ids=tokens, attention_mask=mask.long()).logits
        mask = mask if counted is None else mask & counted
        nats = F.cross_entropy(
            logits[:, :-1].transpose(1, 2).float(), tokens[:, 1:], reduction="none"
        )
        wanted = mask[:, 1:]
        return {"loss": (nats * wanted).sum() / wanted.sum().clamp(min=1)}

    @torch.no_grad()
    def generate(self, prompt: Tensor, **options: Any) -> Tensor:
        """Ids ``[batch, steps]`` behind prompts of equal length, which are included.

        ``options`` are those of transformers' ``generate``. A sequence ends at
        ``<eos>`` of the vocabulary, which all have one of.
        """
        ends = {
            "eos_token_id": self.vocabulary.eos,
            "pad_token_id": self.vocabulary.pad,
        }
        ones = torch.ones_like(prompt)
        return self.llm.generate(
            input_ids=prompt, attention_mask=ones, **{**ends, **options}
        )

    def save(self, folder: str | Path) -> None:
        """Write what was learned: the adapter (peft's own files) and the new rows."""
        from safetensors.torch import save_file

        folder = Path(folder)
        # Without looking for the base model's files, which may lie on the Hub.
        self.llm.save_pretrained(folder / _ADAPTER, save_embedding_layers=False)
        names = ("embedding", "head")
        rows = {
            name: table.rows.detach().cpu().contiguous()
            for name, table in zip(names, self._tables(), strict=True)
        }
        save_file(rows, folder / _ROWS)
        text = json.dumps({**self.about, "text": self.vocabulary.text}, indent=2)
        (folder / _ABOUT).write_text(text + "\n", "utf-8")

    @classmethod
    def load(cls, folder: str | Path, llm: nn.Module) -> "UnitLLM":
        """What ``save`` wrote, on the text model that it was learned on.

        Arguments
        ---------
        folder : str or Path
            See ``save``.
        llm : nn.Module
            The pretrained model, without units.

        Raises
        ------
        DsuError
            If there is nothing, or the text model has another number of ids.
        """
        from safetensors.torch import load_file

        peft = require("peft", extra="hf", needed_by="UnitLLM")
        folder = Path(folder)
        if not (folder / _ABOUT).is_file():
            raise DsuError(f"{folder}: no units were saved there, {_ABOUT} is missing")
        about = json.loads((folder / _ABOUT).read_text("utf-8"))
        text, found = about.pop("text"), llm.get_input_embeddings().num_embeddings
        if text != found:
            raise DsuError(f"{folder}: learned on a model of {text} ids, not {found}")
        model = cls(llm, **about)
        state = load_file(folder / _ADAPTER / "adapter_model.safetensors")
        peft.set_peft_model_state_dict(model.llm, state)
        rows = load_file(folder / _ROWS)
        with torch.no_grad():
            for name, table in zip(("embedding", "head"), model._tables(), strict=True):
                table.rows.copy_(rows[name])
        return model.eval()

    def _tables(self) -> tuple[MoreRows, MoreRows]:
        base = self.llm.get_base_model()
        return base.get_input_embeddings(), base.get_output_embeddings()
