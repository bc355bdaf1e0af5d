"""How a patch takes hold of MiniStack, and how it notices that it no longer fits.

Every patch names the functions it replaces together with a digest of their source. The pinned
version alone would not do: whoever moves the pin has to look at each patched function again, and
the start-up failure says which patch to look at and what it found.
"""

import functools
import hashlib
import importlib.metadata
import inspect

MINISTACK = "1.5.33"


class Misfit(Exception):
    """MiniStack is not what the patch was written for."""


def expect_version():
    found = importlib.metadata.version("ministack")
    expect(found == MINISTACK, f"written for ministack {MINISTACK}, found {found}")


def expect(condition, otherwise):
    if not condition:
        raise Misfit(otherwise)


def digest(function):
    """The digest of a function as MiniStack ships it, whatever patches already wrap it."""
    source = inspect.getsource(inspect.unwrap(function))
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def shaped(owner, name, source):
    """`owner.name`, provided its source is still the one with this digest."""
    function = getattr(owner, name, None)
    label = f"{owner.__name__}.{name}"
    expect(function is not None, f"{label} is gone")
    found = digest(function)
    expect(found == source, f"{label} has changed (digest {found}, expected {source})")
    return function


def around(owner, name, source):
    """Decorator: replace `owner.name` by a function that gets the original as first argument."""
    original = shaped(owner, name, source)

    def install(replacement):
        if inspect.iscoroutinefunction(original):

            @functools.wraps(original)
            async def patched(*args, **kwargs):
                return await replacement(original, *args, **kwargs)
        else:

            @functools.wraps(original)
            def patched(*args, **kwargs):
                return replacement(original, *args, **kwargs)

        setattr(owner, name, patched)
        return patched

    return install


def with_constant(owner, name, source, old, new):
    """Replace one literal inside a function, leaving every other line of it alone."""
    function = inspect.unwrap(shaped(owner, name, source))
    constants = function.__code__.co_consts
    matches = [c for c in constants if type(c) is type(old) and c == old]
    expect(len(matches) == 1, f"{owner.__name__}.{name} holds {old!r} {len(matches)} times")
    replaced = tuple(new if type(c) is type(old) and c == old else c for c in constants)
    function.__code__ = function.__code__.replace(co_consts=replaced)
