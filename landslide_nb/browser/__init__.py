"""The page of the maps, in modules; called, this package is the verb `browser`, whichever of the two a person means"""
import sys
from types import ModuleType


class _Browser(ModuleType):
    def __call__(self, *args, **kwargs):
        from landslide_nb.app import browser
        return browser(*args, **kwargs)


sys.modules[__name__].__class__ = _Browser
