"""Units in the place of features: the right vectors, and only they are trained."""

import pytest
import torch

from speechbrain_dsu.inference.tokenizer import UnitTokenizer
from speechbrain_dsu.tokenizers.base import Tokenizer
from speechbrain_dsu.tokenizers.embedded import EmbeddedUnits
from speechbrain_dsu.utils.errors import DsuError


@pytest.fixture(scope="module")
def wavs():
    return 0.1 * torch.randn(3, 16000, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name, books", [("mfcc-k100", None), ("codec-16k", 2)])
def test_a_frame_is_the_sum_of_its_codes_vectors(name, books, wavs):
    tokenizer = UnitTokenizer.from_hparams(name)
    units = EmbeddedUnits(tokenizer, 8, n_codebooks=books)
    lens = torch.tensor([1.0, 0.5, 0.8])
    found = units(wavs, lens)
    tokens = tokenizer.encode_batch(wavs, lens, n_codebooks=books)
    table = units.embedding.table.weight.view(units.embedding.streams, -1, 8)
    first = units.embedding.vocabulary.offsets[0]
    for row, codes in zip(found, tokens.unpad(), strict=True):
        wanted = sum(table[k, first + codes[:, k]] for k in range(codes.shape[1]))
        assert torch.allclose(row[: len(codes)], wanted)
        assert (row[len(codes) :] == 0).all()


def test_only_the_table_is_trained(wavs):
    tokenizer = UnitTokenizer.from_hparams("ssl-k100").mods.tokenizer
    before = tokenizer.fingerprint
    units = EmbeddedUnits(tokenizer, 8).train()
    trained = [name for name, p in units.named_parameters() if p.requires_grad]
    assert trained == ["embedding.table.weight"] and not tokenizer.training
    optimizer = torch.optim.SGD(units.parameters(), lr=0.1)
    units(wavs).square().sum().backward()
    optimizer.step()
    assert tokenizer.fingerprint == before


def test_it_starts_from_the_codebook_where_asked(wavs):
    tokenizer = UnitTokenizer.from_hparams("mfcc-k100").mods.tokenizer
    centers = tokenizer.quantizer.centers[0]
    units = EmbeddedUnits(tokenizer, centers.shape[1], from_codebooks=True)
    first = units.embedding.vocabulary.offsets[0]
    table = units.embedding.table.weight[first:]
    centred = centers - centers.mean(0)
    ratio = (table / centred)[centred.abs() > 0.1]
    assert torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-3)


def test_a_codec_gives_its_codebooks_too(wavs):
    tokenizer = UnitTokenizer.from_hparams("codec-16k").mods.tokenizer
    units = EmbeddedUnits(tokenizer, 12, from_codebooks=True)
    codes = torch.arange(1024).view(1, -1, 1).expand(-1, -1, 8)
    vectors = tokenizer.codec.quantizer.embed(codes)[0, :, 3]
    table = units.embedding.table.weight.view(8, -1, vectors.shape[-1])[3, -1024:]
    similar = torch.cosine_similarity(table - table.mean(0), vectors - vectors.mean(0))
    assert (similar > 0.999).all()


def test_a_tokenizer_without_a_quantizer_is_named():
    bare = Tokenizer(sample_rate=8000, hop=80, codebook_sizes=(4,))
    with pytest.raises(DsuError, match="Tokenizer has no quantizer to start from"):
        EmbeddedUnits(bare, 8, from_codebooks=True)
