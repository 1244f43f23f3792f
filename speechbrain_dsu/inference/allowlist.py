"""The names that a YAML file from elsewhere may use, and the arguments it may give."""

import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

from torch import nn

from speechbrain_dsu.utils.errors import DsuError

PACKAGES = (
    "speechbrain_dsu.tokens",
    "speechbrain_dsu.nnet",
    "speechbrain_dsu.lobes",
    "speechbrain_dsu.tokenizers",
    "speechbrain_dsu.decoders",
    "speechbrain_dsu.integrations",
    "speechbrain.nnet",
    "torch.nn.modules",
)
"""Packages whose modules may be named, with everything below them."""

MODULES = (
    "torch.nn",
    "speechbrain.lobes.features",
    *(
        f"speechbrain.lobes.models.{name}"
        for name in (
            "BESTRQ CRDNN ContextNet DiffWave ECAPA_TDNN FastSpeech2 HifiGAN RNNLM "
            "ResNet VanillaNN Xvector bsq conv_tasnet convolution wav2vec"
        ).split()
    ),
    *(
        f"speechbrain.lobes.models.transformer.{name}"
        for name in (
            "Branchformer Conformer Transformer TransformerASR TransformerLM "
            "TransformerSE TransformerST"
        ).split()
    ),
)
"""Single modules that may be named. The models were read: none opens a file. Not in
the list since they do: fairseq_wav2vec, beats, kmeans, Tacotron2, MSTacotron2,
discrete; nor dual_path and resepformer, which look a class up by a string."""

DENIED = (
    "speechbrain.nnet.adapters",
    "speechbrain.nnet.schedulers",
    "speechbrain_dsu.integrations.onnx",
    "speechbrain_dsu.integrations.ray",
    "speechbrain_dsu.integrations.sklearn",
)
"""Inside an allowed package, yet they read files or pickles."""

PLAIN_CLASSES = ("speechbrain_dsu.tokens", "speechbrain_dsu.decoders")
"""Packages whose classes may be built although they are not ``nn.Module``."""

FUNCTIONS = tuple(
    f"torch.nn.functional.{name}"
    for name in "elu gelu glu hardtanh leaky_relu mish relu relu6 silu softplus".split()
) + ("torch.tanh", "torch.sigmoid", "torch.relu", "torch.sin")
"""Functions that ``!name:`` may hand to a class, beside the classes themselves."""

ADVICE = (
    "build from classes under speechbrain_dsu, speechbrain.nnet or torch.nn, or pass "
    "allow_unsafe_yaml=True if you trust whoever wrote this file to run code here"
)
_DOTTED = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", re.ASCII)
_PATH_KEY = re.compile(
    r"(.*_)?(path|paths|dir|dirs|folder|file|files|filename|url|uri|ckpt|checkpoint|"
    r"source|repo|repo_id|savedir|pretrained|auto_map|trust_remote_code)",
    re.IGNORECASE,
)
_PATH_VALUE = re.compile(
    r"\w+://.*|~\w*[/\\].*|/[\w.].*|[A-Za-z]:[/\\].*|(.*[/\\])?\.\.([/\\].*)?|\./.*"
    r"|[\w.-]+/[\w.-]+"
    r"|.*\.(pt|pth|ckpt|pkl|pickle|joblib|bin|npy|npz|safetensors|onnx|model|json|"
    r"ya?ml|wav|flac|py|so)",
    re.IGNORECASE | re.DOTALL,
)


class UnsafeYamlError(DsuError):
    """A YAML file asks for something that a file from elsewhere may not have."""


def refuse(where: str, what: str, why: str) -> UnsafeYamlError:
    """The one form of a refusal: ``<file>:<line>: <tag> refused: <why>; <advice>``."""
    return UnsafeYamlError(f"{where}: {what} refused: {why}; {ADVICE}")


def _is_listed(module: str) -> bool:
    def under(names: tuple[str, ...]) -> bool:
        return any(module == n or module.startswith(n + ".") for n in names)

    return (module in MODULES or under(PACKAGES)) and not under(DENIED)


def resolve_class(name: str, where: str, tag: str = "!new:") -> type:
    """The class a tag names, if a file from elsewhere may build it.

    The name must be ``<listed module>.<class>``. What is found there counts by the
    module it was *defined* in, so a name that a listed module merely imported
    (``speechbrain_dsu.lobes.features.torch...``) gets nowhere, and modules that are
    not listed are never imported.

    Arguments
    ---------
    name : str
        Dotted name, as written behind the tag.
    where : str
        ``file:line`` for the message.
    tag : str
        The tag, for the message.

    Returns
    -------
    type
        An ``nn.Module`` subclass, or a class of ``PLAIN_CLASSES``.

    Raises
    ------
    UnsafeYamlError
        If it is anything else.

    Example
    -------
    >>> resolve_class("torch.nn.Linear", "a.yaml:1").__name__
    'Linear'
    >>> resolve_class("subprocess.Popen", "a.yaml:1")
    Traceback (most recent call last):
    ...
    speechbrain_dsu.inference.allowlist.UnsafeYamlError: a.yaml:1: ...
    """
    what = f"{tag}{name}"
    if not _DOTTED.fullmatch(name):
        raise refuse(where, what, "not a public dotted name")
    module_name, _, attribute = name.rpartition(".")
    if not _is_listed(module_name):
        raise refuse(where, what, f"{module_name} is not a listed module")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not f"{module_name}.".startswith(f"{error.name}."):
            raise DsuError(
                f"{where}: {what} needs the package '{error.name}': pip install it"
            ) from error
        raise refuse(where, what, f"there is no module {module_name}") from None
    found = getattr(module, attribute, None)
    if not inspect.isclass(found):
        raise refuse(where, what, f"{module_name} has no class {attribute}")
    if not _is_listed(found.__module__):
        raise refuse(where, what, f"it is defined in {found.__module__}")
    plain = any(f"{found.__module__}.".startswith(f"{p}.") for p in PLAIN_CLASSES)
    if not (plain or issubclass(found, nn.Module)):
        raise refuse(where, what, "it is not a torch module")
    return found


def resolve_callable(name: str, where: str) -> Callable:
    """What ``!name:`` may hand over: a class that ``!new:`` may build, or one of
    ``FUNCTIONS``.

    Example
    -------
    >>> resolve_callable("torch.nn.functional.relu", "a.yaml:1").__name__
    'relu'
    """
    if name in FUNCTIONS:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)
    return resolve_class(name, where, "!name:")


def argument_problem(
    key: str | None, value: Any, seen: set[int] | None = None
) -> str | None:
    """Why a constructor argument of a bundle is refused, or None.

    A bundle is closed: its parts get numbers, words and settings, never a path, an
    address or a Hub id to read something from. Adapters of other packages' models
    therefore take ``config: dict``, written out in the YAML; their
    ``from_pretrained`` is a class method, which ``!new:`` can't reach.

    Example
    -------
    >>> argument_problem("dim", 4), argument_problem("config", {"norm": "layer"})
    (None, None)
    >>> argument_problem("name", "facebook/hubert-base-ls960")
    "'facebook/hubert-base-ls960' looks like a path, an address or a Hub id"
    """
    given = value is True or (isinstance(value, str | dict | list | tuple) and value)
    if key and given and _PATH_KEY.fullmatch(key):
        return f"'{key}' names something to read from outside the bundle"
    if isinstance(value, str) and _PATH_VALUE.fullmatch(value):
        return f"'{value}' looks like a path, an address or a Hub id"
    if not isinstance(value, dict | list | tuple):
        return None
    seen = set() if seen is None else seen
    if id(value) in seen:
        return None
    seen.add(id(value))
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    problems = (
        argument_problem(k if isinstance(k, str) else None, v, seen) for k, v in pairs
    )
    return next(filter(None, problems), None)
