"""Say texts: a WAV file for one, or one for each line of a file or of the input.

dsu say "three one four" --voice nicolas --out x.wav
dsu say --lines texts.txt --out folder       (1.wav, 2.wav, ...)
dsu say --lines ids.tsv --out folder         (lines "id<TAB>text": id.wav)
"""

import argparse
import sys
from pathlib import Path

from speechbrain_dsu.cli import common
from speechbrain_dsu.utils.errors import DsuError

HELP = "text to speech"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu say``."""
    parser.add_argument("text", nargs="*", metavar="TEXT", help="one utterance each")
    parser.add_argument(
        "--lines", metavar="FILE", help="a text, or id, tab, text, per line; -: stdin"
    )
    parser.add_argument(
        "--model",
        default="digits-tts",
        metavar="NAME",
        help="shipped name (digits-tts), bundle folder, or Hub id owner/name",
    )
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument(
        "--out", required=True, help="WAV file of one text, or folder of several"
    )
    parser.add_argument("--voice", help="name; 'all' for each in turn")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: likeliest")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance", type=float, default=1.0, help="1: none")
    parser.add_argument("--batch", type=int, default=16, help="texts at once (16)")
    common.add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Say the texts; a line for each: file, seconds, why it stopped if not at its end.

    Texts that were cut count as failed.
    """
    from speechbrain_dsu.inference.tts import UnitTTS
    from speechbrain_dsu.utils.audio import write_audio
    from speechbrain_dsu.utils.lengths import absolute_lengths

    named = _texts(args)
    single = len(named) == 1 and Path(args.out).suffix != ""
    device = {"device": str(common.choose_device(args.device))}
    tts = UnitTTS.from_hparams(args.model, args.revision, run_opts=device)
    failed = 0
    for first in range(0, len(named), args.batch):
        part = named[first : first + args.batch]
        voice = args.voice
        if voice == "all" and tts.voices:
            turns = range(first, first + len(part))
            voice = [tts.voices[turn % len(tts.voices)] for turn in turns]
        sampler = _sampler(args, first, len(part), tts.device)
        texts = [text for _, text in part]
        found = tts.say_batch(texts, voice, sampler=sampler, guidance=args.guidance)
        counts = absolute_lengths(found.lens, found.wavs.shape[1]).tolist()
        rows = zip(part, found.wavs, counts, found.stopped, strict=True)
        for (name, _), wav, count, reason in rows:
            path = Path(args.out) if single else Path(args.out) / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_audio(path, wav[:count].cpu(), tts.speech_rate)
            note = "" if reason == "end" else f"\tcut: {reason}"
            failed += reason != "end"
            print(f"{path}\t{count / tts.speech_rate:.2f} s{note}", flush=True)
    return 1 if failed else 0


def _texts(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Names of files and what goes into them."""
    found = [(str(n), text) for n, text in enumerate(args.text, start=1)]
    if args.lines is not None:
        if args.lines == "-":
            content = sys.stdin.read()
        else:
            content = Path(args.lines).read_text("utf-8")
        for number, line in enumerate(content.splitlines(), start=len(found) + 1):
            name, tab, text = line.partition("\t")
            if line.strip():
                found.append((name, text) if tab else (str(number), line))
    if not found:
        raise DsuError("nothing to say: give TEXT or --lines FILE")
    names = [name for name, _ in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DsuError(f"two lines are called '{twice[0]}': their files would be one")
    if any(".." in Path(name).parts or Path(name).is_absolute() for name in names):
        raise DsuError("ids of lines become files below --out: no '..', no root")
    return found


def _sampler(args: argparse.Namespace, first: int, count: int, device: str):
    """A generator of its own for each text, whatever stands beside it."""
    if not args.temperature:
        return None
    import torch

    from speechbrain_dsu.decoders.sampling import Sampling

    seeds = range(args.seed + first, args.seed + first + count)
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
    return Sampling(args.temperature, generator=generators)
