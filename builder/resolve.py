"""Requirements to a lock: the question, the resolver that answers it, and the proof.

pip answers for targets this machine can run, uv for all others or where the project chose it.
What comes back is proved for the target by its own tags, whatever the resolver believed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from builder import resolve_pip, resolve_uv
from builder.details import complete, ready_web
from builder.inputs import digest_of, inputs_digest
from builder.listed import check_unchanged, still_listed
from builder.pages import IndexFile, name_and_version
from builder.proof import Chosen, ProofError, prove
from builder.requirements import Inputs, inputs_from, project_python, read_inputs
from builder.resolution import Found, Gate, Question, ResolveError, Resolver
from builder.sources import Sources, sources_of
from builder.spec import BuildSpec
from builder.tools import can_build, interpreter_for, is_native
from builder.urls import credentials_in, file_url, without_credentials
from images.errors import UsageError
from wheelhouse.lock import Lock, LockedFile, LockedPackage, read_lock
from wheelhouse.target import Target

if TYPE_CHECKING:
    from builder.client import IndexClient

Say = Callable[[str], None]


def resolve_target(
    spec: BuildSpec,
    target: Target,
    previous: Lock | None = None,
    upgrade: Mapping[str, str] | Iterable[str] = (),
    *,
    inputs: Inputs | None = None,
    say: Say = lambda _: None,
    newest: bool = False,
    prefer: Mapping[str, str] | None = None,
) -> Lock:
    """The lock of one target.

    The versions of ``previous`` are kept unless the requirements or ``upgrade`` (names, with the
    version to take or an empty text) force others; ``newest`` keeps none. ``prefer`` are versions
    to take for names the previous lock does not hold. ``say`` gets what the user should know.
    Files carry the address they were found at, without login. Raises UsageError, ResolveError,
    ProofError, ChangedFileError, AmbiguousError.
    """
    if spec.given_lock:
        return _given(spec, target)
    asked = inputs if inputs is not None else read_inputs(spec)
    if spec.project:
        _check_python(spec, target)
    moves = dict(upgrade) if isinstance(upgrade, Mapping) else dict.fromkeys(upgrade, "")
    keep = dict(prefer or {})
    if previous is not None and not newest:
        keep |= {p.name: p.version for p in previous.packages}
    question = Question(
        target=target,
        requirements=asked.for_target(target),
        constraints=asked.constraints,
        options=asked.options,
        sources=with_file_options(sources_of(spec), asked),
        from_source=_from_source(spec, target, say),
        exclude_newer=spec.exclude_newer,
        keep=keep,
        upgrade=moves,
    )
    return _answer(question, spec, previous, inputs_digest(spec, asked, target), say)


def _from_source(spec: BuildSpec, target: Target, say: Say) -> tuple[str, ...]:
    """The names to build for a target: none where this machine cannot, there wheels must do."""
    if not spec.from_source or can_build(target):
        return spec.from_source
    names = ", ".join(spec.from_source)
    say(f"target {target.name}: this machine cannot build for it, so wheels of {names} are taken")
    return ()


def resolve_requirements(
    requirements: list[str],
    target: Target,
    spec: BuildSpec,
    *,
    previous: Lock | None = None,
    upgrade: Mapping[str, str] | None = None,
    origin: str = "build requirements",
    say: Say = lambda _: None,
) -> Lock:
    """A lock of wheels alone for requirement strings: what a build environment is made from.

    The project's sources and cut-off hold. The versions of ``previous`` are kept. Raises as
    `resolve_target` does.
    """
    asked = inputs_from(requirements, origin)
    question = Question(
        target=target,
        requirements=asked.for_target(target),
        options=(("--only-binary", ":all:"),),
        sources=sources_of(spec),
        exclude_newer=spec.exclude_newer,
        keep={} if previous is None else {p.name: p.version for p in previous.packages},
        upgrade=upgrade or {},
    )
    digest = digest_of({"build": sorted(line.text for line in asked.requirements)})
    return _answer(question, spec, previous, digest, say)


def choose_resolver(spec_resolver: str, target: Target) -> Resolver:
    """pip where this machine can run the target, else uv. Raises UsageError without either."""
    interpreter = interpreter_for(target)
    if spec_resolver == "uv":
        why = 'resolver = "uv" was chosen'
    elif not is_native(target):
        why = f"pip cannot resolve for {target.platform}, which is not this machine's"
    elif interpreter is None:
        why = f"pip cannot resolve for Python {target.python}, which is not on this machine"
    elif not resolve_pip.supports(target):
        why = f"the installed pip does not run under Python {target.python}"
    else:
        return resolve_pip.PipResolver(interpreter)
    uv = resolve_uv.find_uv()
    if uv is None:
        raise resolve_uv.missing(target, why)
    return resolve_uv.UvResolver(uv, interpreter)


def with_file_options(sources: Sources, inputs: Inputs) -> Sources:
    """The sources with the indexes and find-links that requirements files name, as pip reads them.

    An ``--index-url`` replaces the configured one, the others are added.
    """
    indexes = inputs.places("-i", "--index-url", "--pypi-url")
    settings = replace(
        sources.settings,
        index_url=indexes[-1] if indexes else sources.settings.index_url,
        extra_index_urls=(
            *sources.settings.extra_index_urls,
            *inputs.places("--extra-index-url"),
        ),
        find_links=(*sources.settings.find_links, *map(_link, inputs.places("-f", "--find-links"))),
        trusted_hosts=(*sources.settings.trusted_hosts, *inputs.places("--trusted-host")),
        no_index=sources.settings.no_index or ("--no-index", "") in inputs.options,
    )
    return replace(sources, settings=settings)


def _link(value: str) -> str:
    return value if ":" in value[:8] else file_url(Path(value).absolute())


def _answer(
    question: Question, spec: BuildSpec, previous: Lock | None, digest: str, say: Say
) -> Lock:
    resolver = choose_resolver(spec.resolver, question.target)
    settled = _settled(question, previous, digest)
    if settled is not None and resolver.name == "pip":
        # pip would download, and build metadata, to find the very same; uv is quick enough.
        listed = still_listed(settled, question.sources)
        if listed is not None:
            return listed
    web = ready_web(question.sources)
    if _needs_gateway(question, resolver):
        found = _through_gateway(resolver, question, say)
    else:
        found = resolver.resolve(question, None)
    chosen = _proved(question, found)
    direct = {line.name for line in question.requirements}
    files = complete([one.file for one in chosen], previous, web)
    packages = tuple(
        _locked(one, file, one.found.name in direct)
        for one, file in zip(chosen, files, strict=True)
    )
    lock = Lock(target=question.target, packages=packages, inputs_digest=digest)
    check_unchanged(lock, previous)
    return lock


def _needs_gateway(question: Question, resolver: Resolver) -> bool:
    """Whether the resolver asks a local index with the project's rules instead of the real ones.

    For a password in an address too: pip hands its addresses to the pip it builds sdists with as
    arguments, which every user of the machine can read.
    """
    if question.sources.ruled or question.exclude_newer:
        return True
    return resolver.name == "pip" and any(map(credentials_in, question.sources.addresses()))


def _settled(question: Question, previous: Lock | None, digest: str) -> Lock | None:
    """The previous lock, when it was made for this very question and nothing is to move."""
    if previous is None or not question.keep or question.upgrade:
        return None
    same = previous.inputs_digest == digest and previous.target == question.target
    return previous if same else None


def _proved(question: Question, found: tuple[Found, ...]) -> tuple[Chosen, ...]:
    """A file for every package. Raises ProofError.

    A resolver lists the files of one index; the proof looks at those of the others too before
    it says that there is none.
    """
    try:
        return prove(question.target, found, question.from_source)
    except ProofError as error:
        lacking = {gap.name for gap in error.gaps}
    from builder.client import IndexClient

    with IndexClient(question.sources) as client:
        found = tuple(
            _with_all_files(package, client) if package.name in lacking else package
            for package in found
        )
    return prove(question.target, found, question.from_source)


def _with_all_files(package: Found, client: IndexClient) -> Found:
    """The package with every file of its version that any place has."""
    others = []
    for file in client.project(package.name).files:
        parsed = name_and_version(file.filename)
        if parsed is not None and parsed[1] == str(Version(package.version)):
            others.append(file)
    return package._replace(files=(*package.files, *others))


def _through_gateway(resolver: Resolver, question: Question, say: Say) -> tuple[Found, ...]:
    from builder.client import IndexClient
    from builder.cutoff import CutOff
    from builder.gateway import Gateway

    with contextlib.ExitStack() as stack:
        client = stack.enter_context(IndexClient(question.sources))
        moment = question.exclude_newer
        cutoff = CutOff(moment, question.target, lambda: client.web) if moment else None
        gateway = stack.enter_context(Gateway(client, cutoff))
        try:
            found = resolver.resolve(question, Gate(gateway.url))
        except ResolveError:
            if not gateway.errors:
                raise
            found = ()
        for note in gateway.notes:
            say(note)
        if gateway.errors:
            # Also when there is an answer: it was found as if the project did not exist.
            raise next(iter(gateway.errors.values()))
        return tuple(
            package._replace(files=tuple(gateway.original(file) for file in package.files))
            for package in found
        )


def _locked(chosen: Chosen, file: IndexFile, direct: bool) -> LockedPackage:
    return LockedPackage(
        name=chosen.found.name,
        version=chosen.found.version,
        file=LockedFile(
            filename=file.filename,
            sha256=file.sha256 or "",
            size=file.size,
            upload_time=file.upload_time,
            url=without_credentials(file.url),
        ),
        kind=chosen.kind,
        requires_python=_specifier(chosen.found.requires_python),
        direct=direct,
    )


def _specifier(text: str | None) -> str | None:
    """What METADATA says of Python versions; nothing where that cannot be read, as for pip."""
    try:
        return str(SpecifierSet(text or "")) or None
    except InvalidSpecifier:
        return None


def _given(spec: BuildSpec, target: Target) -> Lock:
    """The lock another tool made, as it selects for this target."""
    lock = read_lock(Path(spec.given_lock), target)
    return replace(lock, inputs_digest=inputs_digest(spec, Inputs(()), target))


def _check_python(spec: BuildSpec, target: Target) -> None:
    wanted = project_python(Path(spec.project))
    if not wanted.contains(target.python_full_version, prereleases=True):
        raise UsageError(
            f"target {target.name}",
            f"is Python {target.python}, but pyproject.toml asks for {wanted}",
        )
