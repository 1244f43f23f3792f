"""Bundles from the Hugging Face Hub and to it, one cache folder per commit.

No symbolic links (Windows refuses them to ordinary users), no request once the files
are there, no file that the manifest does not name, and the token in every request.
"""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from speechbrain_dsu.inference import manifest as mf
from speechbrain_dsu.inference.bundles import verify_bundle
from speechbrain_dsu.inference.card import make_card
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import bundles_dir, shipped_bundles

Token = str | bool | None
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
MAX_FILE_BYTES = 20 << 30


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Where fetched bundles lie: the argument, ``$DSU_CACHE`` or the user's cache.

    Example
    -------
    >>> cache_root("here").name
    'here'
    """
    if cache_dir is not None:
        return Path(cache_dir)
    if os.environ.get("DSU_CACHE"):
        return Path(os.environ["DSU_CACHE"])
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "speechbrain_dsu" / "hub"


def find_bundle(
    source: str | Path,
    revision: str | None = None,
    token: Token = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """The folder of a bundle: shipped name, then folder, then Hub id.

    Arguments
    ---------
    source : str or Path
        ``"dmel"``, ``"exports/mine"`` or ``"owner/name"``.
    revision : str, optional
        Branch, tag or commit on the Hub.
    token : str or bool, optional
        Of the Hub, for private repositories.
    cache_dir : str or Path, optional
        See ``cache_root``.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    DsuError
        With everything that was tried.

    Example
    -------
    >>> find_bundle("no-such-thing")
    Traceback (most recent call last):
    ...
    speechbrain_dsu.utils.errors.DsuError: 'no-such-thing' is no shipped bundle ...
    """
    name = str(source)
    if isinstance(source, str) and name in shipped_bundles():
        return bundles_dir() / name
    if Path(source).is_dir():
        return Path(source)
    if not isinstance(source, str) or not is_repo_id(name):
        raise DsuError(
            f"'{name}' is no shipped bundle ({_shipped()}), "
            f"no folder ({Path(source).absolute()}) and not a Hub id (owner/name)"
        )
    return fetch_bundle(name, revision, token, cache_dir)


def _shipped() -> str:
    return ", ".join(shipped_bundles()) or "none"


def is_repo_id(name: str) -> bool:
    """Whether a text has the form ``owner/name`` of the Hub.

    Example
    -------
    >>> is_repo_id("me/my-units"), is_repo_id("../up"), is_repo_id("a/b/c")
    (True, False, False)
    """
    return bool(_REPO.fullmatch(name)) and ".." not in name and "--" not in name


def _home(repo_id: str, cache_dir: str | Path | None) -> Path:
    return cache_root(cache_dir) / repo_id.replace("/", "--")


def cached_bundle(
    repo_id: str, revision: str | None = None, cache_dir: str | Path | None = None
) -> Path | None:
    """The folder of an earlier fetch of this revision, without any request.

    Example
    -------
    >>> cached_bundle("me/units", cache_dir=getfixture("tmp_path")) is None
    True
    """
    home, revision = _home(repo_id, cache_dir), revision or "main"
    commit = revision
    if not _COMMIT.fullmatch(revision):
        reference = home / "refs" / quote(revision, safe="")
        commit = reference.read_text().strip() if reference.is_file() else ""
    folder = home / commit
    found = bool(_COMMIT.fullmatch(commit)) and (folder / mf.MANIFEST).is_file()
    return folder if found else None


def fetch_bundle(
    repo_id: str,
    revision: str | None = None,
    token: Token = None,
    cache_dir: str | Path | None = None,
    refresh: bool = False,
) -> Path:
    """The folder of a Hub bundle, downloaded unless it is in the cache already.

    The revision is pinned to its commit first, the manifest comes next, then exactly
    the files it names. The folder is named after the commit and appears whole.

    Arguments
    ---------
    repo_id : str
        ``owner/name``.
    revision : str, optional
        Branch, tag or commit; ``main`` by default.
    token : str or bool, optional
        Of the Hub; sent with every request.
    cache_dir : str or Path, optional
        See ``cache_root``.
    refresh : bool
        Ask the Hub whether the branch has moved on; a cached one is used as it is
        otherwise.

    Returns
    -------
    Path
        ``<cache>/<owner>--<name>/<commit>``.

    Raises
    ------
    DsuError
        If it can be had neither from the caches nor from the Hub, or a downloaded
        file is not the one the manifest names.
    """
    if not is_repo_id(repo_id):
        raise DsuError(f"'{repo_id}' is not a Hub id of the form owner/name")
    cached = None if refresh else cached_bundle(repo_id, revision, cache_dir)
    if cached is not None:
        return cached
    home, revision = _home(repo_id, cache_dir), revision or "main"
    if not refresh:
        snapshot = _hub_cache(repo_id, revision)
        if snapshot is not None:
            commit = snapshot.name
            return _install(home, commit, revision, repo_id, _copier(snapshot))
    try:
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        commit = revision
        if not _COMMIT.fullmatch(revision):
            commit = api.repo_info(repo_id, revision=revision, token=token).sha
        downloader = _downloader(api, repo_id, commit, token)
        return _install(home, commit, revision, repo_id, downloader)
    except DsuError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise DsuError(
            f"{repo_id} at {revision}: no shipped bundle "
            f"({_shipped()}) or folder has that name, it is not in"
            f" {home} nor in the Hub's own cache, and the Hub gave "
            f"{type(error).__name__}: {reason}; check the name, the network and, for a "
            "private or gated one, the token"
        ) from error


def _downloader(api: Any, repo_id: str, commit: str, token: Token) -> Callable:
    def get(name: str, folder: Path) -> None:
        # local_dir: real files. The Hub's cache would hold links to them.
        api.hf_hub_download(
            repo_id, name, revision=commit, local_dir=str(folder), token=token
        )

    return get


def _copier(snapshot: Path) -> Callable:
    def get(name: str, folder: Path) -> None:
        shutil.copyfile(snapshot / name, folder / name)

    return get


def _hub_cache(repo_id: str, revision: str) -> Path | None:
    """A complete snapshot in huggingface_hub's own cache (``hf download``)."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo_id, mf.MANIFEST, revision=revision)
    if not isinstance(found, str):
        return None
    snapshot = Path(found).parent
    if not _COMMIT.fullmatch(snapshot.name):
        return None
    files = mf.read_manifest(snapshot)["files"]
    return snapshot if all((snapshot / name).is_file() for name in files) else None


def _install(
    home: Path, commit: str, revision: str, repo_id: str, get: Callable
) -> Path:
    """Collect a bundle's files beside their place, check them, put them there."""
    if not _COMMIT.fullmatch(str(commit)):
        raise DsuError(f"{repo_id}: the Hub names no commit for {revision}")
    folder, part = home / commit, home / f".part-{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        get(mf.MANIFEST, part)
        manifest = mf.read_manifest(part)
        for name, entry in manifest["files"].items():
            if entry["bytes"] > MAX_FILE_BYTES:
                raise DsuError(
                    f"{repo_id}: {name} of {entry['bytes']} bytes is too large"
                )
            get(name, part)
        for file in mf.check_files(part, manifest):
            if not file.ok:
                raise DsuError(f"{repo_id} at {commit}: {file.part}: {file.why}")
        # What the download tool left behind is not a part of the bundle.
        shutil.rmtree(part / ".cache", ignore_errors=True)
        _settle(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    if revision != commit:
        reference = home / "refs" / quote(revision, safe="")
        reference.parent.mkdir(exist_ok=True)
        fresh = reference.with_name(f".{os.getpid()}")
        fresh.write_text(commit)
        fresh.replace(reference)
    return folder


def _settle(part: Path, folder: Path) -> None:
    """Put a fetched commit in its place, unless another process was faster."""
    if (folder / mf.MANIFEST).is_file():
        manifest = mf.read_manifest(folder)
        if all(file.ok for file in mf.check_files(folder, manifest)):
            return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        part.rename(folder)
    except OSError:
        if not (folder / mf.MANIFEST).is_file():
            raise


def push_bundle(
    folder: str | Path,
    repo_id: str,
    dry_run: bool = False,
    private: bool = True,
    token: Token = None,
    report: Callable[[str], None] = print,
) -> str | None:
    """Publish a bundle with its card; every part is verified first.

    Arguments
    ---------
    folder : str or Path
        The bundle. Its card is written anew, with this Hub id in its example.
    repo_id : str
        ``owner/name``; made if it does not exist.
    dry_run : bool
        Write the card and list the files, send nothing.
    private : bool
        Of a repository that is made.
    token : str or bool, optional
        Of the Hub; sent with every request.
    report : callable
        Takes one line of text at a time.

    Returns
    -------
    str or None
        The commit hash: give it as ``revision`` to load exactly this. None on a dry
        run.

    Raises
    ------
    DsuError
        If a part of the bundle is not in order.
    """
    folder = Path(folder)
    if not is_repo_id(repo_id):
        raise DsuError(f"'{repo_id}' is not a Hub id of the form owner/name")
    wrong = [part for part in verify_bundle(folder) if not part.ok]
    if wrong:
        raise DsuError(f"{folder}: {wrong[0].part}: {wrong[0].why}; nothing was sent")
    manifest = _write_card(folder, repo_id)
    for name, entry in manifest["files"].items():
        report(f"{name}  {entry['bytes']} bytes  sha256 {entry['sha256']}")
    if dry_run:
        report(
            f"dry run: nothing was sent to {repo_id}; the card is {folder / mf.CARD}"
        )
        return None
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True, token=token)
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=str(folder),
        allow_patterns=[mf.MANIFEST, *manifest["files"]],
        commit_message=f"Bundle {manifest.get('name')} {manifest['fingerprint'][:12]}",
        token=token,
    ).oid
    report(f"{repo_id} at {commit}")
    return commit


def _write_card(folder: Path, repo_id: str) -> dict[str, Any]:
    manifest = mf.read_manifest(folder)
    card = make_card(manifest, repo_id)
    path = folder / mf.CARD
    if not path.is_file() or path.read_text("utf-8") != card:
        path.write_text(card, "utf-8")
        manifest["files"] = mf.file_entries(folder)
        mf.write_manifest(folder, manifest)
    return manifest
