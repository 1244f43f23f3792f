"""A text model of transformers with units: the old stays, the new is learned."""

import pytest
import torch

from speechbrain_dsu.utils.errors import DsuError

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

from speechbrain_dsu.integrations.transformers.unit_llm import UnitLLM  # noqa: E402

TEXT, UNITS = 11, 5


def make_llm(seed=0, **changes):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=TEXT,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        **changes,
    )
    return transformers.LlamaForCausalLM(config).eval()


def sequence(model):
    """Text that is answered by units."""
    vocabulary = model.vocabulary
    units = vocabulary.to_ids(torch.tensor([[[3], [1], [4], [1]]]))[..., 0]
    text = torch.tensor([[4, 7, 9]])
    begin, end = (torch.tensor([[vocabulary[x]]]) for x in ("<bos>", "<eos>"))
    return torch.cat([text, begin, units, end], 1)


@pytest.mark.parametrize("tied", [False, True])
def test_scores_of_text_are_what_they_were(tied):
    text = torch.randint(TEXT, (2, 6))
    llm = make_llm(tie_word_embeddings=tied)
    with torch.no_grad():
        before = llm(input_ids=text).logits
        model = UnitLLM(llm, (UNITS,))
        after = model.llm(input_ids=text).logits
    assert after.shape[-1] == TEXT + 3 + UNITS
    torch.testing.assert_close(after[..., :TEXT], before)


def test_the_new_is_learned_and_the_old_stays():
    llm = make_llm()
    old = {name: value.clone() for name, value in llm.state_dict().items()}
    model = UnitLLM(llm, (UNITS,), rank=4).train()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in n or n.endswith(".rows") for n in trained)
    tokens = sequence(model)
    answer = torch.arange(tokens.shape[1])[None] > 3
    parameters = [p for p in model.parameters() if p.requires_grad]
    # Weight decay would move old rows that are merely without gradients.
    optimizer = torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.1)
    losses = []
    for _ in range(150):
        loss = model(tokens, counted=answer)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.05 * losses[0]
    now = {
        name.replace(".old", "").replace(".base_layer", ""): value
        for name, value in model.llm.get_base_model().state_dict().items()
    }
    assert all(now[name].equal(value) for name, value in old.items())
    model.eval()
    found = model.generate(tokens[:, :4], max_new_tokens=12, do_sample=False)
    assert found.tolist() == tokens.tolist(), "the answer, up to its end"


def test_what_does_not_count_costs_nothing():
    model = UnitLLM(make_llm(), (UNITS,))
    tokens = sequence(model)
    nothing = torch.zeros_like(tokens, dtype=torch.bool)
    assert float(model(tokens, counted=nothing)["loss"]) == 0
    # Padding changes nothing.
    longer = torch.nn.functional.pad(tokens, (0, 3), value=model.vocabulary.pad)
    lens = torch.tensor([tokens.shape[1] / longer.shape[1]])
    found = model(longer, lens)["loss"]
    torch.testing.assert_close(found, model(tokens)["loss"])


def test_an_adapter_comes_back_on_its_own_model(tmp_path):
    model = UnitLLM(make_llm(), (UNITS,), rank=4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save(tmp_path)
    tokens = sequence(model)
    with torch.no_grad():
        kept = UnitLLM.load(tmp_path, make_llm())(tokens)["loss"]
        fresh = UnitLLM(make_llm(), (UNITS,), rank=4)(tokens)["loss"]
        torch.testing.assert_close(kept, model(tokens)["loss"])
    assert abs(float(fresh - kept)) > 1e-3
    other = make_llm(pad_token_id=0)
    other.resize_token_embeddings(TEXT + 1)
    with pytest.raises(DsuError, match="a model of 11 ids, not 12"):
        UnitLLM.load(tmp_path, other)
    with pytest.raises(DsuError, match="no layer named 'query'"):
        UnitLLM(make_llm(), (UNITS,), targets=("query",))
