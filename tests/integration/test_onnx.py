"""Exported codecs give equal tokens in a runtime without torch."""

import json

import pytest
import torch

from contract.tokenizers_codecs import CODECS, build_codec, build_plain
from speechbrain_dsu.integrations.onnx.export import export_onnx
from speechbrain_dsu.integrations.onnx.graphs import search_graph
from speechbrain_dsu.nnet.quantizers.codebook import Codebook
from speechbrain_dsu.nnet.quantizers.composed import Identity
from speechbrain_dsu.nnet.quantizers.residual import ResidualVQ
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import bundles_dir

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
CLIP = read_audio(bundles_dir() / "speech.wav", 16000)[0]


def one_thread():
    # More of them wait by spinning, which starves a busy machine.
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options


@pytest.mark.parametrize("name", ["plain", *CODECS])
def test_tokens_of_several_lengths_are_equal(name, tmp_path):
    tokenizer = build_plain() if name == "plain" else build_codec(name)
    files = export_onnx(tokenizer, tmp_path / "graphs")
    assert [file.name for file in files[:3]] == [
        "encoder.onnx",
        "quantizer.onnx",
        "decoder.onnx",
    ]
    about = json.loads(files[3].read_text())
    assert about["fingerprint"] == tokenizer.fingerprint
    sessions = []
    for file in files[:3]:
        kinds = {node.op_type for node in onnx.load(file).graph.node}
        assert not kinds & {"STFT", "DFT"}
        sessions.append(runtime.InferenceSession(str(file), one_thread()))
    encoder, quantizer, decoder = sessions
    for n in (5, 7777, 16000, 60001):
        wav = CLIP[None, :n]
        (latents,) = encoder.run(None, {"wavs": wav.numpy()})
        (codes,) = quantizer.run(None, {"latents": latents})
        expected = tokenizer.encode(wav)
        assert torch.equal(torch.from_numpy(codes), expected.codes), n
        (found,) = decoder.run(None, {"codes": codes})
        decoded = tokenizer.decode(expected)[0]
        scale = max(1.0, decoded.abs().max().item())
        found = torch.from_numpy(found) / scale
        torch.testing.assert_close(found, decoded / scale, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "quantizer",
    [
        Codebook(16, 4, metric="cosine", update="gradient"),
        Codebook(16, 4, metric="sphere"),
        ResidualVQ(3, 16, 8, codebook_dim=4, update="gradient", metric="cosine"),
    ],
    ids=["cosine", "sphere", "factorised"],
)
def test_the_graphs_search_is_the_quantizers(quantizer):
    latents = torch.randn(1, 200, quantizer.dim)
    found = search_graph(quantizer.eval())(latents)
    assert torch.equal(found, quantizer.encode(latents))


def test_what_can_not_be_exported_says_so(tmp_path):
    with pytest.raises(DsuError, match="Identity can't be exported"):
        search_graph(Identity(4))
    from speechbrain_dsu.lobes.features import LogMel
    from speechbrain_dsu.nnet.quantizers.scalar import UniformBins
    from speechbrain_dsu.tokenizers.features import FeatureTokenizer

    dmel = FeatureTokenizer(LogMel(), UniformBins(80, 16, -11.5, 2.0))
    with pytest.raises(DsuError, match="is no codec"):
        export_onnx(dmel, tmp_path)
