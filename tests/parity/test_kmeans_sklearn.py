"""Our k-means beside scikit-learn: the same assignment, and files it has written."""

import pickle

import pytest
import torch
from safetensors.torch import load_file

from speechbrain_dsu.evaluation.bench import run_bench
from speechbrain_dsu.evaluation.bench.kmeans import BlobFrames
from speechbrain_dsu.integrations.sklearn.convert import convert_kmeans
from speechbrain_dsu.training.kmeans import fit_kmeans
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.nearest import nearest_centers

cluster = pytest.importorskip("sklearn.cluster")
joblib = pytest.importorskip("joblib")


@pytest.fixture(scope="module")
def blobs():
    return BlobFrames(dim=64, blobs=300, families=20)


@pytest.fixture(scope="module")
def model(blobs):
    frames = blobs.draw(5000, part=0).numpy()
    return cluster.MiniBatchKMeans(200, n_init=1, random_state=0).fit(frames)


@pytest.mark.parametrize("dump", [joblib.dump, None], ids=["joblib", "pickle"])
def test_converted_centres_assign_as_predict(blobs, model, tmp_path, dump):
    source, out = tmp_path / "kmeans.pt", tmp_path / "new" / "kmeans.safetensors"
    if dump is None:
        source.write_bytes(pickle.dumps(model))
    else:
        dump(model, source)
    facts = convert_kmeans(source, out, trust_pickle=True)
    assert (facts["size"], facts["dim"]) == (200, 64)
    centers = load_file(out)["centers"]
    assert centers.shape == (1, 200, 64)
    frames = blobs.draw(100_000, part=1)
    ids, distances = nearest_centers(frames, centers[0])
    assert int((ids.numpy() != model.predict(frames.numpy())).sum()) == 0
    assert distances.sum().item() == pytest.approx(-model.score(frames.numpy()), 1e-5)


def test_float64_model_converts(blobs, tmp_path):
    frames = blobs.draw(500, part=0).double().numpy()
    model = cluster.KMeans(5, n_init=1, random_state=0).fit(frames)
    joblib.dump(model, tmp_path / "k")
    convert_kmeans(tmp_path / "k", tmp_path / "k.safetensors", trust_pickle=True)
    assert load_file(tmp_path / "k.safetensors")["centers"].dtype == torch.float32


class Trap:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_pickle_is_not_touched_without_trust(tmp_path):
    mark, source = tmp_path / "mark", tmp_path / "k"
    source.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(DsuError, match="runs any code"):
        convert_kmeans(source, tmp_path / "out")
    assert not mark.exists()


@pytest.mark.parametrize(
    "content, message",
    [(pickle.dumps({"a": 1}), "dict without cluster"), (b"text", "could not be read")],
)
def test_other_files_are_named(tmp_path, content, message):
    (tmp_path / "k").write_bytes(content)
    with pytest.raises(DsuError, match=message):
        convert_kmeans(tmp_path / "k", tmp_path / "out", trust_pickle=True)
    assert not (tmp_path / "out").exists()


def test_full_passes_reach_lloyd_of_scikit_learn(blobs):
    """From one start, many full passes end where scikit-learn's Lloyd ends."""
    frames = blobs.draw(3000, part=2)
    start = frames[:30].clone()
    model = cluster.KMeans(30, init=start.numpy(), n_init=1, max_iter=300, tol=0)
    model.fit(frames.numpy())
    centers, _ = fit_kmeans(
        lambda epoch: frames.split(700),
        30,
        64,
        epochs=0,
        full_epochs=60,
        start=start[None],
        progress=False,
    )
    torch.testing.assert_close(
        centers[0], torch.from_numpy(model.cluster_centers_), rtol=1e-4, atol=1e-4
    )


def test_inertia_is_no_worse_than_the_peers(blobs):
    frames, held_out = blobs.draw(20_000, part=3), blobs.draw(5000, part=4)
    centers, _ = fit_kmeans(lambda epoch: frames.split(2000), 100, 64, progress=False)
    peer = cluster.MiniBatchKMeans(100, max_iter=20, random_state=0)
    theirs = torch.from_numpy(peer.fit(frames.numpy()).cluster_centers_)
    ours = nearest_centers(held_out, centers[0])[1].mean()
    assert ours <= 1.01 * nearest_centers(held_out, theirs)[1].mean()


def test_bench_rows():
    rows = run_bench("kmeans", quick=True, fit=fit_kmeans)
    assert {"case", "peer", "ours_s", "peer_s", "ratio"} <= set.intersection(
        *(set(row) for row in rows)
    )
    training = [row for row in rows if row["case"].startswith("train")]
    assert len(training) == 4 and len(rows) == 7
    assert all(row["ours_inertia"] < 2 * row["peer_inertia"] for row in training)
    assert all(row.get("disagreements", 0) == 0 for row in rows)
