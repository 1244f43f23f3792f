"""Let a language model of speech go on behind recordings, or judge pairs of them.

Files in, files out: each recording's first seconds and what the model makes of them.
Units that can't be spoken are written as tokens alone. With --pairs the model chooses
between the columns `real` and `fake` of a CSV file instead (sWUGGY, sBLIMP).
"""

import argparse
from pathlib import Path
from typing import Any

from speechbrain_dsu.cli import common
from speechbrain_dsu.utils.errors import DsuError

HELP = "go on behind speech with a language model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu continue``."""
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="audio file, folder, or SpeechBrain manifest (.json, .csv)",
    )
    parser.add_argument("--data-root", help="replaces {data_root} in a manifest")
    parser.add_argument(
        "--column", default="wav", help="key of the audio in a manifest (wav)"
    )
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="name, bundle folder or Hub id"
    )
    parser.add_argument("--out", help="folder of the results")
    parser.add_argument("--text", help="go on behind this text: joint models")
    parser.add_argument("--pairs", metavar="CSV", help="score pairs instead")
    parser.add_argument(
        "--prompt-seconds", type=float, default=3.0, help="of each recording (3)"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="behind it (3)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0: likeliest")
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--writes", choices=("speech", "text"), default="speech")
    parser.add_argument("--draft", metavar="NAME", help="smaller model, writes ahead")
    parser.add_argument("--ahead", type=int, default=4, help="ids it writes ahead (4)")
    parser.add_argument(
        "--coarse",
        type=float,
        metavar="COSINE",
        help="with a draft: units this similar stand for one another (PCG)",
    )
    parser.add_argument(
        "--int8", action="store_true", help="matrices in eight bits: faster, inexact"
    )
    parser.add_argument("--voice", help="of vocoders that have several")
    common.add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Write continuations, or print how pairs were told apart."""
    from speechbrain_dsu.inference.lm import SpeechLM

    options = {"run_opts": {"device": str(common.choose_device(args.device))}}
    model = SpeechLM.from_hparams(args.model, **options)
    if args.int8:
        model.use_int8()
    if args.pairs is not None:
        return _score(model, args.pairs)
    if args.out is None or (args.source is None) == (args.text is None):
        raise DsuError("give --out, and either SOURCE or --text (or --pairs)")
    draft = None
    if args.draft is not None:
        draft = SpeechLM.from_hparams(args.draft, **options)
    names = "seconds temperature top_k top_p seed writes ahead coarse".split()
    how = {name: getattr(args, name) for name in names} | {"draft": draft}
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if args.text is not None:
        _write(model, model.continue_text(args.text, **how), out, "text", args.voice)
        return 0
    from speechbrain_dsu.dataio.manifest import read_items

    for item in read_items(args.source, args.data_root, args.column):
        found = model.continue_file(item.path, args.prompt_seconds, **how)
        _write(model, found, out, item.id, args.voice)
    return 0


def _write(model: Any, found: Any, out: Path, name: str, speaker: str | None) -> None:
    """One item's tokens, its speech where it can be spoken, and a line about it."""
    from safetensors.torch import save_file

    from speechbrain_dsu.cli.decode import target
    from speechbrain_dsu.utils.audio import write_audio

    path = target(out, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokens = found.tokens
    about = {"fingerprint": tokens.fingerprint, "frame_rate": str(tokens.frame_rate)}
    codes = tokens.codes[0].cpu().contiguous()
    save_file({"codes": codes}, path.with_suffix(".safetensors"), about)
    can_speak = "vocoder" in model.mods or model.mods.tokenizer.has_decoder
    if can_speak and len(codes):
        conditions = {} if speaker is None else {"speaker": speaker}
        wavs, _ = model.speak(found, **conditions)
        write_audio(path, wavs[0].cpu(), model.speech_rate)
    rate, prompt = tokens.frame_rate, int(found.prompts[0])
    parts = [f"{prompt / rate:.2f} s + {(len(codes) - prompt) / rate:.2f} s"]
    parts.append(found.stopped[0])
    if found.speculation is not None:
        kept = found.speculation
        parts.append(f"{kept.acceptance:.0%} of {kept.proposed} drafted ids stayed")
    if found.text[0]:
        parts.append(found.text[0])
    print(
        f"{path if can_speak else path.with_suffix('.safetensors')}: {parts[0]}, "
        + ", ".join(parts[1:])
    )


def _score(model: Any, table: str) -> int:
    from speechbrain_dsu.evaluation.language import pair_accuracy, read_pairs

    folder = Path(table).parent
    pairs = [(str(folder / a), str(folder / b)) for a, b in read_pairs(table)]
    found = pair_accuracy(pairs, model.log_likelihood_file)
    print(f"{found.pairs} pairs, the real one is likelier:")
    print(f"summed      {found.summed:.4f}")
    print(f"normalised  {found.normalised:.4f}")
    return 0
