"""Turn a token store back into audio, one WAV file per utterance.

Tokens of a codec are decoded by it (--tokenizer); units that have no decoder of their
own are spoken by a vocoder that was trained on them (--vocoder, --voice).
"""

import argparse
from pathlib import Path

from speechbrain_dsu.cli import common
from speechbrain_dsu.utils.errors import DsuError

HELP = "a token store back to speech"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu decode``."""
    parser.add_argument("store", metavar="STORE", help="folder of the token store")
    decoders = parser.add_mutually_exclusive_group(required=True)
    for name in ("tokenizer", "vocoder"):
        decoders.add_argument(
            f"--{name}",
            metavar="NAME",
            help="shipped name, bundle folder, or Hub id owner/name",
        )
    parser.add_argument("--voice", help="of a vocoder")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    common.add_device_argument(parser)
    parser.add_argument("--out", required=True, help="folder of the WAV files")
    parser.add_argument("--ids", nargs="+", metavar="ID", help="only these")


def run(args: argparse.Namespace) -> int:
    """Decode and write."""
    from tqdm import tqdm

    from speechbrain_dsu.dataio.token_store import TokenStore
    from speechbrain_dsu.utils.audio import write_audio

    store = TokenStore(args.store)
    unknown = [item for item in args.ids or () if item not in store]
    if unknown:
        raise DsuError(f"{args.store}: has no utterance '{unknown[0]}'")
    if args.vocoder is not None:
        from speechbrain_dsu.inference.vocoder import UnitVocoder

        device = {"device": str(common.choose_device(args.device))}
        loaded = UnitVocoder.from_hparams(args.vocoder, args.revision, run_opts=device)
        decoder, conditions = loaded.mods.vocoder, {"speaker": args.voice}
    else:
        decoder = common.load_tokenizer(args.tokenizer, args.revision, args.device)
        conditions = {}
    out = Path(args.out)
    items = list(args.ids or store)
    for item in tqdm(items, unit="file", disable=None):
        path = target(out, item)
        wavs, _ = decoder.decode(store[item], **conditions)
        path.parent.mkdir(parents=True, exist_ok=True)
        # The last frame reaches beyond the recording's end.
        write_audio(path, wavs[0, : store.n_samples(item)], decoder.sample_rate)
    print(f"{out}: {len(items)} files at {decoder.sample_rate} Hz")
    return 0


def target(out: Path, item_id: str) -> Path:
    """Where an id's audio goes: within ``out``, whatever the id is.

    Example
    -------
    >>> target(Path("out"), "speaker/take1").as_posix()
    'out/speaker/take1.wav'
    """
    path = out / f"{item_id}.wav"
    if not path.resolve().is_relative_to(out.resolve()):
        raise DsuError(f"the id '{item_id}' leads out of {out}; it is not written")
    return path
