"""The token store: what goes in comes out, and nothing gets in that doesn't belong."""

import json
import pickle
import random

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_dsu.dataio.shards import ShardWriter, StoreInfo, id_dtype, read_header
from speechbrain_dsu.dataio.token_store import TokenStore, TokenStoreWriter
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.errors import DsuError


def make_info(sizes=(500,), fingerprint="a" * 64, **more) -> StoreInfo:
    return StoreInfo(fingerprint, 50.0, 16000, tuple(sizes), "units", **more)


def draw(frames: int, sizes, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randint(size, (frames,), generator=generator) for size in sizes]
    return torch.stack(columns, dim=1)


def fill(folder, info, lengths, shard_items=1000) -> dict[str, torch.Tensor]:
    """Write utterances of the given lengths; the ids are out of order on purpose."""
    codes = {
        f"{(7 * n) % 1000}/utt-ä-{n}": draw(length, info.sizes, n)
        for n, length in enumerate(lengths)
    }
    with TokenStoreWriter(folder, info, shard_items) as writer:
        for item, value in codes.items():
            writer.add(item, value, n_samples=320 * len(value))
    return codes


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 70000), min_size=1, max_size=5),
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    shard_items=st.integers(1, 13),
)
def test_round_trip_is_exact(tmp_path_factory, sizes, lengths, shard_items):
    folder = tmp_path_factory.mktemp("store")
    codes = fill(folder, make_info(sizes), lengths, shard_items)
    store = TokenStore(folder)
    assert list(store) == list(codes)
    assert len(store.paths) == -(-len(codes) // shard_items)
    for item, value in codes.items():
        tokens = store[item]
        assert torch.equal(tokens.codes[0], value) and tokens.codes.dtype == torch.int64
        assert tokens.sizes == tuple(sizes) and tokens.fingerprint == "a" * 64
        assert store.n_frames(item) == len(value)
        assert store.n_samples(item) == 320 * len(value)
    batch = store.batch(list(codes)[::-1])
    for got, want in zip(batch.unpad(), list(codes.values())[::-1], strict=True):
        assert torch.equal(got, want)


def test_random_access_over_many_row_groups(tmp_path):
    codes = fill(tmp_path, make_info((500, 20)), [n % 9 for n in range(2900)], 1100)
    store = TokenStore(tmp_path)
    order = list(codes)
    random.Random(0).shuffle(order)
    for item in order:
        assert torch.equal(store.codes(item), codes[item])
    assert len(store._cache) <= 8


@pytest.mark.parametrize(
    ("sizes", "kind"),
    [((1,), "uint8"), ((256,), "uint8"), ((257,), "uint16"), ((65536, 3), "uint16")],
)
def test_smallest_type_that_fits(tmp_path, sizes, kind):
    assert id_dtype(sizes) == kind
    highest = torch.tensor([[size - 1 for size in sizes]])
    with TokenStoreWriter(tmp_path, make_info(sizes)) as writer:
        writer.add("a", highest)
    assert torch.equal(TokenStore(tmp_path).codes("a"), highest)
    field = pq.read_schema(tmp_path / "tokens-00000.parquet").field("codes")
    assert str(field.type.value_type) == kind


def test_pandas_and_pyarrow_read_the_folder_plainly(tmp_path):
    codes = fill(tmp_path, make_info((50, 60)), [3, 0, 5], shard_items=2)
    (tmp_path / "_job.json").write_text('{"shards": 2}')
    frame = pandas.read_parquet(tmp_path).set_index("id")
    assert list(frame.columns) == ["n_samples", "frames", "codes"]
    for item, value in codes.items():
        row = frame.loc[item]
        flat = np.array(row["codes"]).reshape(row["frames"], 2)
        assert (flat == value.numpy()).all() and row["n_samples"] == 320 * len(value)
    assert pq.read_table(tmp_path).num_rows == 3


def test_metadata_say_what_is_needed_to_use_the_ids(tmp_path):
    fill(tmp_path, make_info((500,)), [3])
    path = tmp_path / "tokens-00000.parquet"
    header = json.loads(pq.read_metadata(path).metadata[b"speechbrain_dsu"])
    assert header["format"] == 1 and header["sizes"] == [500]
    assert header["fingerprint"] == "a" * 64 and header["tokenizer"] == "units"
    assert (header["frame_rate"], header["sample_rate"]) == (50.0, 16000)
    assert header["version"]


def test_same_content_same_bytes(tmp_path):
    for name in ("one", "two"):
        fill(tmp_path / name, make_info(), range(300))
    one, two = (tmp_path / n / "tokens-00000.parquet" for n in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_frame_rate_survives_as_it_is(tmp_path):
    rate = 16000 / 321
    info = StoreInfo("f", rate, 16000, (9,))
    with TokenStoreWriter(tmp_path, info) as writer:
        writer.add("a", draw(3, (9,)))
    store = TokenStore(tmp_path)
    assert store.frame_rate == rate and store["a"].frame_rate == rate
    assert store.n_samples("a") is None
    assert store.manifest()["a"] == {"frames": 3, "duration": 3 / rate}


@pytest.mark.parametrize(
    "other",
    [
        make_info(fingerprint="b" * 64),
        make_info(sizes=(501,)),
        StoreInfo("a" * 64, 25.0, 16000, (500,)),
    ],
)
def test_two_tokenizers_do_not_mix(tmp_path, other):
    fill(tmp_path, make_info(), [3])
    with pytest.raises(DsuError, match="tokens of another kind"):
        TokenStoreWriter(tmp_path, other)
    with ShardWriter(tmp_path / "tokens-00001.parquet", other) as shard:
        shard.add("b", draw(3, other.sizes))
    with pytest.raises(DsuError, match="don't belong together"):
        TokenStore(tmp_path)


def test_tokens_of_another_tokenizer_are_refused(tmp_path):
    tokens = Tokens.from_list([draw(3, (500,))], 50.0, (500,), "b" * 64)
    with TokenStoreWriter(tmp_path, make_info()) as writer:
        with pytest.raises(DsuError, match="bbbbbbbbbbbb in a store of aaaaaaaaaaaa"):
            writer.add("a", tokens)
        writer.add("a", Tokens.from_list([draw(3, (500,))], 50.0, (500,), "a" * 64))
    assert len(TokenStore(tmp_path)) == 1


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        (torch.tensor([[500]]), "outside"),
        (torch.tensor([[-1]]), "outside"),
        (torch.zeros(3, 2, dtype=torch.int64), r"must be \[frames, 1\]"),
        (torch.zeros(3, dtype=torch.int64), r"must be \[frames, 1\]"),
    ],
)
def test_wrong_codes_are_refused(tmp_path, codes, said):
    with TokenStoreWriter(tmp_path, make_info()) as writer:
        with pytest.raises(DsuError, match=said):
            writer.add("a", codes)


def test_an_id_is_in_a_store_once(tmp_path):
    with TokenStoreWriter(tmp_path, make_info(), shard_items=1) as writer:
        writer.add("a", draw(3, (500,)))
        with pytest.raises(DsuError, match="'a' is there already"):
            writer.add("a", draw(3, (500,)))
    with pytest.raises(DsuError, match="'a' is there already"):
        TokenStoreWriter(tmp_path, make_info()).add("a", draw(3, (500,)))
    with ShardWriter(tmp_path / "x.parquet", make_info()) as shard:
        shard.add("a", draw(3, (500,)))
    with pytest.raises(DsuError, match="'a' occurs twice"):
        TokenStore(tmp_path)


def test_store_can_be_added_to(tmp_path):
    fill(tmp_path, make_info(), [3, 4])
    before = TokenStore(tmp_path)
    with TokenStoreWriter(tmp_path, make_info()) as writer:
        writer.add("new", draw(5, (500,)))
    after = TokenStore(tmp_path)
    assert list(after) == [*before, "new"]


def test_failed_shard_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        with ShardWriter(tmp_path / "tokens-00000.parquet", make_info()) as shard:
            for n in range(600):
                shard.add(str(n), draw(3, (500,)))
            raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_what_is_no_store(tmp_path):
    with pytest.raises(DsuError, match="no such token store"):
        TokenStore(tmp_path / "none")
    with pytest.raises(DsuError, match="no token store"):
        TokenStore(tmp_path)
    pandas.DataFrame({"a": [1]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DsuError, match="not of a token store"):
        TokenStore(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DsuError, match="not readable as Parquet"):
        TokenStore(tmp_path)


def test_newer_format_says_update(tmp_path):
    path = tmp_path / "tokens-00000.parquet"
    shard = ShardWriter(path, make_info())
    shard.add("a", draw(3, (500,)))
    shard.close({"format": 2})
    with pytest.raises(DsuError, match="format 2.*update"):
        read_header(path)


def test_unfinished_job_is_not_taken_for_a_corpus(tmp_path):
    fill(tmp_path, make_info(), [3])
    (tmp_path / "_job.json").write_text('{"shards": 3}')
    with pytest.raises(DsuError, match="1 of 3 shards"):
        TokenStore(tmp_path)
    assert len(TokenStore(tmp_path, partial=True)) == 1


def test_unknown_id(tmp_path):
    fill(tmp_path, make_info(), [3])
    store = TokenStore(tmp_path)
    assert "x" not in store and store.get("x") is None
    with pytest.raises(KeyError, match="has no tokens of 'x'"):
        store["x"]


def test_a_pickled_copy_reads_the_same(tmp_path):
    codes = fill(tmp_path, make_info(), [3, 4])
    store = TokenStore(tmp_path)
    item = next(iter(codes))
    store.codes(item)
    copy = pickle.loads(pickle.dumps(store))
    assert torch.equal(copy.codes(item), codes[item])


@pytest.mark.parametrize("workers", [0, 2])
def test_speechbrain_dataset_and_loader(tmp_path, workers):
    """Sorted by length and padded by SpeechBrain's own classes, with workers."""
    from speechbrain.dataio.dataloader import make_dataloader
    from speechbrain.dataio.dataset import DynamicItemDataset

    codes = fill(tmp_path, make_info((30, 40)), [5, 2, 9, 4])
    store = TokenStore(tmp_path)
    dataset = DynamicItemDataset(store.manifest())
    dataset.add_dynamic_item(store.codes, takes="id", provides="codes")
    dataset.set_output_keys(["id", "codes"])
    dataset = dataset.filtered_sorted(sort_key="duration")
    seen = []
    loader = make_dataloader(dataset, batch_size=2, num_workers=workers)
    for batch in loader:
        padded, lens = batch.codes
        for item, row, relative in zip(batch.id, padded, lens, strict=True):
            count = round(float(relative) * padded.shape[1])
            assert torch.equal(row[:count], codes[item])
            seen.append(count)
    assert seen == [2, 4, 5, 9]


def test_size_on_disk_is_near_nine_bits_per_token(tmp_path):
    """500 units in runs, ids and lengths included."""
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 500, 400_000)[
        np.cumsum(generator.random(400_000) < 0.5)
    ]
    with TokenStoreWriter(tmp_path, make_info()) as writer:
        for n, part in enumerate(ids.reshape(-1, 500)):
            writer.add(f"u{n:06d}", part[:, None])
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size * 8 / len(ids) < 9.5
