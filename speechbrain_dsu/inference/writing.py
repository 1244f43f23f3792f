"""How a language model of speech is asked to write, and what comes of it."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from speechbrain_dsu.decoders.speculative import Speculation
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.errors import DsuError

Writes = Literal["speech", "text"]


@dataclass(frozen=True, eq=False)
class Continuation:
    """What a language model of speech wrote.

    Arguments
    ---------
    tokens : Tokens
        Prompt and continuation, for the tokenizer's or a vocoder's ``decode``.
    prompts : Tensor
        Frames of each prompt, int64 ``[batch]``.
    text : list of str
        Text in each sequence; empty for models of speech alone.
    stopped : tuple of str
        Why each item stopped: "end", "length" or "loop".
    speculation : Speculation or None
        How well a draft model guessed, if there was one.
    """

    tokens: Tokens
    prompts: Tensor
    text: list[str]
    stopped: tuple[str, ...]
    speculation: Speculation | None = None


@dataclass(frozen=True)
class Writing:
    """How a language model writes.

    Arguments
    ---------
    seconds : float
        Most speech (or, of text, letters for as many seconds) behind the prompt.
    temperature : float
        0 takes the likeliest; see ``decoders.sampling``.
    top_k, top_p
        See ``Sampling``.
    seed : int
        Item k of a batch draws by a generator of seed ``seed + k``.
    writes : str
        What a joint model goes on with: "speech" or "text".
    loop_seconds : float, optional
        Stop items whose last so many seconds repeat one short pattern.
    ahead : int
        With a draft model: ids that it writes before the model looks.
    coarse : float, optional
        With a draft model: least cosine of units that may stand for one another
        (PCG, see ``Coarse``); None: the result keeps the model's distribution.
    """

    seconds: float = 3.0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    writes: Writes = "speech"
    loop_seconds: float | None = None
    ahead: int = 4
    coarse: float | None = None

    def __post_init__(self):
        if self.seconds <= 0 or self.temperature < 0:
            raise DsuError(
                f"seconds={self.seconds}, temperature={self.temperature}: above 0, and "
                "0 or above"
            )
        if self.writes not in ("speech", "text"):
            raise DsuError(f"writes='{self.writes}': 'speech' or 'text'")
