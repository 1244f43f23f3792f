"""What models on units do with speech and text, to listen to on the demo's page."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from speechbrain_dsu.evaluation.report import audio_uri
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import bundles_dir

SAID = "three one four one five"
"""What the page lets a model say."""

MAX_SECONDS = 10.0
"""Of a recording that a voice is converted of: the page stays small."""


@dataclass(frozen=True)
class Scene:
    """One thing that a model does.

    Arguments
    ---------
    model : str
        Name of its bundle.
    title : str
        What it does.
    given, found : str
        Text in and out, where there is some.
    heard, made : str
        Sound in and out, as data URIs, where there is some.
    command : str
        What does the same on the command line.
    """

    model: str
    title: str
    command: str
    given: str = ""
    heard: str = ""
    found: str = ""
    made: str = ""


def play_models(models: Mapping[str, Any], source: str | Path | None) -> list[Scene]:
    """Let every model do its part.

    Arguments
    ---------
    models : mapping
        Name to interface: those of ``inference`` for recognition (``transcribe_file``),
        synthesis (``say_batch``), translation (``translate_batch``) and conversion
        (``convert_batch``); others do nothing here.
    source : str, Path or None
        The user's own recording, which is converted to other voices; None: the clip
        that comes with the package.

    Returns
    -------
    list of Scene
        In the order of the models. One that raises a DsuError says so as what it
        found.
    """
    clips = bundles_dir()
    scenes: list[Scene] = []
    acts: dict[str, Callable[..., Iterator[Scene]]] = {
        "transcribe_file": _transcribe,
        "say_batch": _say,
        "translate_batch": _translate,
        "convert_batch": _convert,
    }
    for name, model in models.items():
        for method, act in acts.items():
            if hasattr(model, method):
                try:
                    scenes += act(name, model, clips, source)
                except DsuError as error:
                    scenes.append(
                        Scene(name, method.split("_")[0], "", found=str(error))
                    )
    return scenes


def _transcribe(
    name: str, model: Any, clips: Path, source: str | Path | None
) -> Iterator[Scene]:
    path = clips / "digits.wav"
    yield Scene(
        name,
        "Digits to text",
        f"dsu transcribe digits.wav --model {name}",
        heard=_clip(path),
        found=model.transcribe_file(path),
    )


def _say(
    name: str, model: Any, clips: Path, source: str | Path | None
) -> Iterator[Scene]:
    for voice in list(model.voices)[:2]:
        speech = model.say_batch([SAID], voice=voice)
        yield Scene(
            name,
            f"Text to speech, voice {voice}",
            f'dsu say "{SAID}" --model {name} --voice {voice} --out said.wav',
            given=SAID,
            made=audio_uri(_first(speech), model.speech_rate),
        )


def _translate(
    name: str, model: Any, clips: Path, source: str | Path | None
) -> Iterator[Scene]:
    path = clips / "digits-es.wav"
    wav, rate = read_audio(path)
    found = model.translate_batch(wav.unsqueeze(0), sample_rate=rate)
    yield Scene(
        name,
        "Spanish speech to English speech",
        f"dsu translate digits-es.wav --model {name} --out translated",
        heard=_clip(path),
        found=found.texts[0] if found.texts else "",
        made=audio_uri(_first(found), model.target_rate),
    )


def _convert(
    name: str, model: Any, clips: Path, source: str | Path | None
) -> Iterator[Scene]:
    path = clips / "digits.wav" if source is None else Path(source)
    wav, rate = read_audio(path)
    wav = wav[: round(MAX_SECONDS * rate)]
    for voice in list(model.voices)[:2]:
        wavs, lens = model.convert_batch(wav.unsqueeze(0), voice, sample_rate=rate)
        yield Scene(
            name,
            f"The same words, voice {voice}",
            f"dsu convert {path.name} --model {name} --voice {voice} --out converted",
            heard=audio_uri(wav, rate),
            made=audio_uri(wavs[0].cpu(), model.output_rate),
        )


def _clip(path: Path) -> str:
    return audio_uri(*read_audio(path))


def _first(speech: Any) -> Tensor:
    """The first item's samples without padding."""
    size = round(float(speech.lens[0]) * speech.wavs.shape[1])
    return speech.wavs[0, :size].cpu()
