"""Time a part of the package beside its peers, in one process, runs interleaved."""

import argparse

from speechbrain_dsu.cli import common

HELP = "timings beside other packages"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu bench``."""
    parser.add_argument("section", metavar="SECTION", help="e.g. kmeans")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes; the timings mean nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Run a section and print its rows."""
    from speechbrain_dsu.evaluation.bench import run_bench

    rows = run_bench(args.section, args.quick, **parts(args.section))
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name, "")) for name in names] for row in rows]
    common.print_table(names, cells, plain=False)
    common.write_result(args.json, rows)
    return 0


def parts(section: str) -> dict:
    """What a section times: evaluation may not import it, so it is handed over."""
    if section == "kmeans":
        from speechbrain_dsu.training.kmeans import fit_kmeans

        return {"fit": fit_kmeans}
    if section == "quantizer-choice":
        from speechbrain_dsu.lobes.features import MFCC, LogMel

        # Sizes that every block's groups divide.
        return {"features": {"MFCC": MFCC(n_mfcc=12), "log-mel": LogMel(n_mels=72)}}
    if section == "codecs":
        return _codec_parts()
    if section == "tokenize":
        return {"make": _ssl_tokenizer}
    if section == "lm":
        from speechbrain_dsu.nnet.int8 import int8_copy

        return {"build": _unit_lm, "write": _write, "compress": int8_copy}
    return {}


def _codec_parts() -> dict:
    from speechbrain_dsu.inference.tokenizer import UnitTokenizer
    from speechbrain_dsu.integrations.transformers.convert_codecs import convert_codec
    from speechbrain_dsu.nnet.weights import arrange_weights
    from speechbrain_dsu.utils.paths import shipped_bundles

    def convert(config, state):
        # As the tokenizer's own copies are laid out.
        return tuple(arrange_weights(part) for part in convert_codec(config, state))

    def streaming():
        return UnitTokenizer.from_hparams("codec-16k").mods.tokenizer

    def units():
        return UnitTokenizer.from_hparams("ssl-k100").mods.tokenizer

    shipped = "codec-16k" in shipped_bundles()
    found = {"convert": convert, "streaming": streaming if shipped else _encodec}
    return {**found, "units": units} if "ssl-k100" in shipped_bundles() else found


def _encodec():
    """An EnCodec with random weights, for as long as no causal codec is shipped."""
    from speechbrain_dsu.inference.flatten import flatten_yaml
    from speechbrain_dsu.inference.loading import load_yaml
    from speechbrain_dsu.utils.paths import hparams_dir

    path = hparams_dir() / "systems" / "codecs" / "encodec_24khz.yaml"
    tokenizer = load_yaml(flatten_yaml(path))["tokenizer"].eval()
    tokenizer.precise = False
    return tokenizer


def _ssl_tokenizer(config, state, layer, centers):
    """Our encoder with weights of transformers' HuBERT, and k-means behind a layer."""
    from speechbrain_dsu.integrations.transformers.convert_ssl import convert_encoder
    from speechbrain_dsu.lobes.ssl import SSLLayers
    from speechbrain_dsu.nnet.quantizers.clustering import KMeans
    from speechbrain_dsu.tokenizers.features import FeatureTokenizer

    features = SSLLayers(convert_encoder(config, state), layers=[layer])
    quantizer = KMeans(len(centers), centers.shape[1])
    quantizer.set_centers(centers.unsqueeze(0))
    return FeatureTokenizer(features, quantizer).eval()


def _unit_lm(units: int, dim: int, n_layers: int, n_heads: int, ffn_dim: int):
    """A language model over one codebook, shaped like Llama."""
    from speechbrain_dsu.lobes.models.unit_lm import UnitLM
    from speechbrain_dsu.nnet.embeddings import UnitEmbedding
    from speechbrain_dsu.nnet.heads import SoftmaxHead
    from speechbrain_dsu.nnet.transformer import Transformer
    from speechbrain_dsu.tokens.patterns import Flatten
    from speechbrain_dsu.tokens.vocabulary import Vocabulary

    layout = Flatten(Vocabulary(sizes=(units,)))
    like_llama = {"norm": "rms", "feed_forward": "swiglu", "bias": False}
    body = Transformer(dim, n_layers, n_heads, ffn_dim, **like_llama)
    return UnitLM(UnitEmbedding(layout, dim), body, SoftmaxHead(layout, dim))


def _write(model, prompt, steps: int):
    """The prompt and so many greedy units behind it; the end is left out."""
    from speechbrain_dsu.decoders.generation import generate
    from speechbrain_dsu.decoders.rules import LayoutRule

    frames = prompt.shape[1] - 1 + steps
    rule = LayoutRule(model.embedding.layout, frames=frames)
    return generate(model.session(), rule, prompt).tokens[:, :-1]


def _cell(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
