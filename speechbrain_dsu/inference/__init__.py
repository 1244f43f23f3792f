"""Ready systems: load by name, folder or Hub id, safely; save, verify and publish.

Names are imported when they are used: the command line must start without
SpeechBrain, which only the interfaces need.
"""

import importlib

_PLACES = {
    "SpeechTranslator": "translation",
    "UnitTokenizer": "tokenizer",
    "UnitASR": "asr",
    "UnitTTS": "tts",
    "SpeechLM": "lm",
    "UnitVocoder": "vocoder",
    "VoiceConverter": "voice_conversion",
    "Interface": "interfaces",
    "Bundle": "bundles",
    "load_bundle": "bundles",
    "save_bundle": "bundles",
    "verify_bundle": "bundles",
    "fetch_bundle": "hub",
    "push_bundle": "hub",
    "check_yaml": "safe_yaml",
    "flatten_yaml": "flatten",
    "load_yaml": "loading",
}

__all__ = sorted(_PLACES)  # noqa: PLE0605


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
