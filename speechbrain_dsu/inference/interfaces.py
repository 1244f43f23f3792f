"""The base of all ready systems: SpeechBrain's ``Pretrained`` with a safe loader.

``Pretrained.from_hparams`` is replaced as a whole, not extended. It hands the fetched
YAML to HyperPyYAML, which runs whatever code that names (even with
``download_only=True``); takes files of another model from a reused ``savedir``; links
by default; loads weights non-strictly, so that a checkpoint without one matching key
only warns; and demands a ``pretrainer`` which looks for ``.ckpt`` pickles. What is
kept is the object: ``mods``, ``hparams``, run options, device, compilation, freezing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechbrain.inference.interfaces import Pretrained
from speechbrain.utils.run_opts import RunOptions
from torch import Tensor, nn

from speechbrain_dsu.inference.bundles import Verify, load_bundle
from speechbrain_dsu.inference.hub import find_bundle
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.errors import DsuError


class Interface(Pretrained):
    """A loaded system. Subclasses name what they need and offer ``<verb>_file`` and
    ``<verb>_batch``.

    Arguments
    ---------
    modules : mapping
        Name to module; ``self.mods`` holds them, on the device of the run options.
    hparams : mapping, optional
        The rest of the YAML; ``self.hparams`` holds it.
    run_opts : mapping or RunOptions, optional
        SpeechBrain's run options, e.g. ``{"device": "cuda"}``. They are taken from
        here only: a published YAML does not steer the machine it runs on.
    freeze_params : bool
        Eval mode, no gradients.
    manifest : mapping, optional
        Of the bundle it came from.
    folder : Path, optional
        The bundle's.

    Raises
    ------
    DsuError
        If a module of ``MODULES_NEEDED`` or a value of ``HPARAMS_NEEDED`` is missing.

    Example
    -------
    >>> class Echo(Interface):
    ...     MODULES_NEEDED = ["layer"]
    >>> Echo({"leyer": nn.Identity()})
    Traceback (most recent call last):
    ...
    speechbrain_dsu.utils.errors.DsuError: Echo needs the module 'layer' ...
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        hparams: Mapping[str, Any] | None = None,
        run_opts: Mapping[str, Any] | RunOptions | None = None,
        freeze_params: bool = True,
        manifest: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ):
        hparams = dict(hparams or {})
        _need(type(self).__name__, "module", self.MODULES_NEEDED, modules)
        _need(type(self).__name__, "hyperparameter", self.HPARAMS_NEEDED, hparams)
        options = RunOptions().as_dict()
        kept = {key: value for key, value in hparams.items() if key not in options}
        # Pretrained would put its 16 kHz normalizer here; audio is read at the
        # system's own rate by load_audio instead.
        kept["audio_normalizer"] = None
        if run_opts is not None and not isinstance(run_opts, RunOptions):
            run_opts = dict(run_opts)
        super().__init__(dict(modules), kept, run_opts, freeze_params)
        self.manifest = dict(manifest or {})
        self.folder = folder

    @classmethod
    def from_hparams(
        cls,
        source: str | Path,
        revision: str | None = None,
        overrides: Mapping[str, Any] | str | None = None,
        run_opts: Mapping[str, Any] | None = None,
        allow_unsafe_yaml: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        verify: Verify = "probe",
        freeze_params: bool = True,
    ) -> "Interface":
        """Load a bundle: by shipped name, from a folder, or from the Hub.

        Nothing is requested from the network if the bundle is shipped, a folder, or
        was fetched before. Each Hub commit has its own folder in the cache, so no
        model can get another one's files.

        Arguments
        ---------
        source : str or Path
            Shipped name, folder, or Hub id ``owner/name``; tried in this order.
        revision : str, optional
            Branch, tag or commit on the Hub.
        overrides : mapping or str, optional
            New values for the YAML.
        run_opts : mapping, optional
            SpeechBrain's run options, e.g. ``{"device": "cuda:0"}``.
        allow_unsafe_yaml : bool
            Let the YAML run any code it names.
        token : str or bool, optional
            Of the Hub; sent with every request.
        cache_dir : str or Path, optional
            Where Hub bundles are kept (``$DSU_CACHE`` or ``~/.cache`` by default).
        verify : "probe", "hash" or "none"
            How much to check; see ``load_bundle``.
        freeze_params : bool
            Eval mode, no gradients.

        Returns
        -------
        Interface
            Of this class.

        Raises
        ------
        DsuError
            If it can't be found, is not whole, or asks for what is not allowed.
        """
        folder = find_bundle(source, revision, token, cache_dir)
        bundle = load_bundle(folder, overrides, verify, allow_unsafe_yaml)
        return cls(
            bundle.modules,
            bundle.hparams,
            run_opts,
            freeze_params,
            manifest=bundle.manifest,
            folder=bundle.folder,
        )

    @staticmethod
    def run_probe(
        modules: Mapping[str, nn.Module], wav: Tensor, sample_rate: int
    ) -> dict[str, Tensor]:
        """What the system makes of ``wav [time]``, for the bundle's probe.

        Systems with a tokenizer need not define it.
        """
        raise DsuError("this interface defines no probe")

    @property
    def sample_rate(self) -> int:
        """Rate of the audio the system takes, in hertz."""
        for holder in (*self.mods.values(), self.hparams):
            if getattr(holder, "sample_rate", None):
                return holder.sample_rate
        raise DsuError(f"{type(self).__name__}: no part has a sample_rate")

    def load_audio(self, path: str | Path) -> Tensor:
        """Read a local file as float32 ``[time]`` at the system's own rate."""
        return read_audio(path, self.sample_rate)[0].to(self.device)

    def __getstate__(self) -> dict[str, Any]:
        # The autocast context cannot be pickled on all versions of torch; workers
        # of a DataLoader make their own.
        state = self.__dict__.copy()
        state.pop("inference_ctx", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        from speechbrain.utils.autocast import AMPConfig, TorchAutocast

        dtype = AMPConfig.from_name(self.precision).dtype
        self.inference_ctx = TorchAutocast(device_type=self.device_type, dtype=dtype)


def _need(name: str, kind: str, needed: list[str], found: Mapping) -> None:
    missing = [key for key in needed if key not in found]
    if missing:
        raise DsuError(
            f"{name} needs the {kind} '{missing[0]}' and has {sorted(found)}"
        )
