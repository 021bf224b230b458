"""How long from saved labels to a new map: twenty suggested chips of demo_a (2,048 px), answered by the truth, a turn as the page starts it.

`python -m benchmarks.turn --folder FOLDER` prints seconds by the clock, CPU seconds of the process that trains and maps, and AUPRC where nobody looked."""
import argparse, os, resource, time
from pathlib import Path

from benchmarks.noise import LABELLED

def children_cpu():
    "CPU seconds of all processes that this one started and that have ended"
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

def first_map(cube, model, folder):
    "The folder of the map that is made before anybody looks"
    from landslide_nb.mapping.mapping import map_cube
    first = folder/'first'
    if not (first/'metrics.json').exists(): map_cube(cube, model, first, 'demo_a', progress=False)
    return first

def timed_turn(first, labels, model):
    "The folder of the next map, seconds by the clock until it is there, and CPU seconds"
    from landslide_nb.labelling.turn import TurnPlan, retrain
    start, cpu_before = time.perf_counter(), children_cpu()
    second = retrain(first, labels, plan=TurnPlan(model)).wait(900)
    return second, time.perf_counter() - start, children_cpu() - cpu_before

def auprcs(runs, labels, truth):
    "AUPRC of each map over the pixels that nobody labelled"
    from landslide_nb.labelling.ground import label_image
    from landslide_nb.labelling.suggest import run_probability
    from landslide_nb.learn.metrics import average_precision
    unseen = label_image(labels, truth).values == 255
    return [average_precision(run_probability(run).values[unseen], truth.values[unseen]) for run in runs]

def main():
    "Map, label, take the turn, and print what it took and what it gained"
    from landslide_nb.data.events import event_cube
    from landslide_nb.labelling.suggest import answer_by_truth, suggest_chips
    p = argparse.ArgumentParser('python -m benchmarks.turn', description=__doc__)
    p.add_argument('--folder', type=Path, required=True)
    p.add_argument('--model', default='base', help='weights of the first map: base, or a file')
    args = p.parse_args()
    cube = event_cube('demo_a', 2048)
    first = first_map(cube, args.model, args.folder)
    labels = answer_by_truth(suggest_chips(first, LABELLED), cube.landslides)
    second, wall, cpu = timed_turn(first, labels, args.model)
    before, after = auprcs((first, second), labels, cube.landslides)
    processors = len(os.sched_getaffinity(0))
    print(f'{wall:.0f} s by the clock on {processors} processors, {cpu:.0f} CPU s; '
          f'AUPRC where nobody looked {before:.2f} -> {after:.2f}')

if __name__ == '__main__': main()
