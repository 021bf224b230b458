"""Sentinel-1 radar datacubes in, calibrated landslide maps out: two-stage learning from very few labels.

Begin with a map that needs no label, of the embedded event or of your own cube:

    import landslide_nb as ls
    cube = ls.event_cube('demo_a', size=512)            # or ls.open_cube('my_cube.zarr')
    ls.map_cube(cube, 'base', 'run')                    # a run folder: rasters, polygons, ranked cells, report
    ls.browser('run')                                   # look at it

`dir(landslide_nb)` lists the verbs; each is imported when it is first used. In a notebook, `from landslide_nb.all import *`
brings all of them at once. The commands are listed by `landslide-nb --help`.
"""
__version__ = "0.1.0"

from landslide_nb.verbs import VERBS, find_verb


def __getattr__(name):
    "A verb, imported when it is first asked for"
    globals()[name] = verb = find_verb(name)
    return verb


def __dir__(): return sorted([*globals(), *VERBS])
