"""Every error that engines raise, one class per cause; imports nothing."""


class EngineError(Exception):
    """Base of all errors of this package."""


class ModelError(EngineError, ValueError):
    """A model file is missing, damaged, or not of a kind that is known; the text says which."""


class EngineMismatch(EngineError, ValueError):
    """Arrays do not have the names, shapes or types that the engine was built for."""


class EngineUnavailable(EngineError, RuntimeError):
    """The asked-for device or library is not on this machine; the text says what to install."""


class EngineFailed(EngineError, RuntimeError):
    """The engine broke while it ran; it must not be used again."""


class DownloadFailed(EngineError, OSError):
    """A file could not be fetched or was not the one that its hash names; nothing was replaced."""
