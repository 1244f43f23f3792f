"""Cluster centres out of a scikit-learn pickle, once, into safetensors."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import save_file

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.fingerprint import hash_file
from speechbrain_dsu.utils.optional import require


def convert_kmeans(path: Path, out: Path, trust_pickle: bool = False) -> dict[str, Any]:
    """Write the centres of a pickled KMeans or MiniBatchKMeans as safetensors.

    Arguments
    ---------
    path : pathlib.Path
        File written by joblib.dump or pickle.dump.
    out : pathlib.Path
        File to write: one float32 tensor "centers" [1, size, dim], as the buffer of
        `speechbrain_dsu.nnet.quantizers.clustering.KMeans`.
    trust_pickle : bool
        Loading a pickle runs whatever code is in it. Say True only for a file whose
        origin you trust.

    Returns
    -------
    dict
        "size", "dim", "kind" (the class that was found), "source_sha256".

    Raises
    ------
    DsuError
        Without trust_pickle, if scikit-learn is missing, or if the file holds no
        fitted k-means.

    Example
    -------
    >>> convert_kmeans("kmeans.pt", "kmeans.safetensors")
    Traceback (most recent call last):
    ...
    speechbrain_dsu.utils.errors.DsuError: kmeans.pt is a pickle: loading it runs ...
    """
    path, out = Path(path), Path(out)
    if not trust_pickle:
        raise DsuError(
            f"{path} is a pickle: loading it runs any code that is in it. If you "
            "trust where it comes from, say so with trust_pickle=True"
        )
    if not path.is_file():
        raise DsuError(f"{path}: no such file")
    model = _load(path)
    centers = getattr(model, "cluster_centers_", None)
    if not isinstance(centers, numpy.ndarray) or centers.ndim != 2:
        raise DsuError(
            f"{path} holds a {type(model).__name__} without cluster_centers_ "
            "[size, dim]: a fitted KMeans or MiniBatchKMeans is needed"
        )
    tensor = torch.from_numpy(numpy.array(centers, dtype=numpy.float32)).unsqueeze(0)
    if not bool(tensor.isfinite().all()):
        raise DsuError(f"{path}: cluster_centers_ holds NaN or infinite values")
    digest, kind = hash_file(path), type(model).__name__
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    save_file({"centers": tensor}, partial, {"kind": kind, "source_sha256": digest})
    os.replace(partial, out)
    size, dim = centers.shape
    return {"size": size, "dim": dim, "kind": kind, "source_sha256": digest}


def _load(path: Path) -> Any:
    joblib = require("joblib", extra="dev", needed_by="reading a k-means pickle")
    require("sklearn", extra="dev", needed_by="reading a k-means pickle")
    try:
        with warnings.catch_warnings():
            # Another release of scikit-learn wrote it: only the centres are read.
            warnings.simplefilter("ignore")
            return joblib.load(path)
    except Exception as error:
        # Unpickling fails in as many ways as there are classes in the file.
        raise DsuError(
            f"{path} could not be read as a joblib or pickle file "
            f"({type(error).__name__}: {error})"
        ) from error
