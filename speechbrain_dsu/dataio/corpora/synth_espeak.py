"""One utterance of espeak-ng with the place of every phone, as a program of its own.

It is run by path, one process per utterance, and imports the standard library alone:
espeak-ng keeps state between utterances (its noise and pitch flutter), so that only a
fresh process says the same text in the same way; and it starts in 10 ms.

Standard input: ``{"voice": ..., "text": ..., "rate": ..., "pitch": ...,
"pitch_range": ...}``. Standard output: a line ``{"rate": hertz, "marks":
[[sample, phone], ...]}``, then 16-bit samples.
"""

import ctypes
import json
import sys

LIBRARY = "libespeak-ng.so.1"

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: callbacks before espeak_Synth returns
_PHONEME_EVENTS = 0b11  # with their names, in IPA
_PHONEME = 7  # espeakEVENT_PHONEME
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4  # espeak_PARAMETER
_HALF = 50  # of the usual volume, at which several variants clip
_UTF8 = 1


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    """``espeak_EVENT`` of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_short),
    ctypes.c_int,
    ctypes.POINTER(_Event),
)


def speak(request: dict) -> tuple[int, list[tuple[int, str]], bytes]:
    """Say one text: sample rate, (first sample, phone) in order, 16-bit samples.

    espeak-ng names a pause with an empty string.
    """
    library = ctypes.CDLL(LIBRARY)
    samples, marks = bytearray(), []

    @_Callback
    def receive(wav, count, events):
        if wav and count > 0:
            samples.extend(ctypes.string_at(wav, 2 * count))
        for event in events:
            if event.type == 0:
                return 0
            if event.type == _PHONEME:
                marks.append((event.sample, event.id.string.decode("utf-8", "ignore")))

    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS)
    if rate <= 0:
        raise OSError("espeak-ng finds no data (Debian package espeak-ng-data)")
    library.espeak_SetSynthCallback(receive)
    if library.espeak_SetVoiceByName(request["voice"].encode()) != 0:
        raise OSError(f"espeak-ng has no voice {request['voice']}")
    library.espeak_SetParameter(_VOLUME, _HALF, 0)
    for parameter, name in (
        (_RATE, "rate"),
        (_PITCH, "pitch"),
        (_RANGE, "pitch_range"),
    ):
        library.espeak_SetParameter(parameter, request[name], 0)
    text = request["text"].encode()
    library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    return rate, marks, bytes(samples)


if __name__ == "__main__":
    try:
        rate, marks, samples = speak(json.load(sys.stdin))
    except OSError as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(json.dumps({"rate": rate, "marks": marks}).encode())
    sys.stdout.buffer.write(b"\n" + samples)
