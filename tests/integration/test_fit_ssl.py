"""Units of a pretrained encoder: a folder of transformers in, a sealed bundle out."""

import json

import pytest
import torch

from speechbrain_dsu.cli.main import main
from speechbrain_dsu.inference.tokenizer import UnitTokenizer
from speechbrain_dsu.utils.paths import bundles_dir

CONFIG = {
    "model_type": "hubert",
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
SYSTEM = f"""
n_units: 5
encoder: !new:speechbrain_dsu.integrations.transformers.ssl.TransformersEncoder
    config: {json.dumps(CONFIG)}
    top_layer: 2
features: !new:speechbrain_dsu.lobes.ssl.SSLLayers
    encoder: !ref <encoder>
    layers: [2, 1]
quantizer: !new:speechbrain_dsu.nnet.quantizers.clustering.KMeans
    size: !ref <n_units>
    dim: 16
    groups: 2
tokenizer: !new:speechbrain_dsu.tokenizers.features.FeatureTokenizer
    features: !ref <features>
    quantizer: !ref <quantizer>
modules:
    tokenizer: !ref <tokenizer>
"""


def test_units_of_a_pretrained_model(tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = {k: v for k, v in CONFIG.items() if k != "model_type"}
    model = transformers.HubertModel(transformers.HubertConfig(**config)).eval()
    model.save_pretrained(tmp_path / "hubert")
    (tmp_path / "system.yaml").write_text(SYSTEM)
    out = tmp_path / "units"
    call = ["fit", "kmeans", str(bundles_dir() / "speech.wav"), "--out", str(out)]
    call += ["--features", str(tmp_path / "system.yaml")]
    assert main(call) == 2
    assert "give --encoder" in capsys.readouterr().err
    assert main([*call, "--size", "7", "--encoder", str(tmp_path / "hubert")]) == 0
    units = UnitTokenizer.from_hparams(out, run_opts={"device": "cpu"})
    assert units.codebook_sizes == (7, 7)
    # The codes are the nearest centres of the model's own hidden states.
    wav = 0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        states = model(wav, output_hidden_states=True).hidden_states
    centers = units.mods.tokenizer.quantizer.centers
    codes = units.encode_batch(wav).codes[0]
    for place, layer in enumerate((2, 1)):
        slow = torch.cdist(states[layer][0], centers[place]).argmin(1)
        assert torch.equal(codes[:, place], slow)
