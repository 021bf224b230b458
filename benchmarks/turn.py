"""How long from saved labels to a new map: twenty suggested chips of demo_a (2,048 px), answered by the truth, a turn as the page starts it.

`python -m benchmarks.turn --folder FOLDER` prints seconds by the clock, CPU seconds of the process that trains and maps, and AUPRC where nobody looked."""
import argparse, os, resource, time
from pathlib import Path

from benchmarks.noise import LABELLED

def children_cpu():
    "CPU seconds of all processes that this one started and that have ended"
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

def main():
    from landslide_nb.data.events import event_cube
    from landslide_nb.labelling.ground import label_image
    from landslide_nb.labelling.suggest import answer_by_truth, run_probability, suggest_chips
    from landslide_nb.labelling.turn import TurnPlan, retrain
    from landslide_nb.learn.metrics import average_precision
    from landslide_nb.mapping.mapping import map_cube
    p = argparse.ArgumentParser('python -m benchmarks.turn', description=__doc__)
    p.add_argument('--folder', type=Path, required=True)
    p.add_argument('--model', default='base', help='weights of the first map: base, or a file')
    args = p.parse_args()
    cube = event_cube('demo_a', 2048)
    first = args.folder/'first'
    if not (first/'metrics.json').exists(): map_cube(cube, args.model, first, 'demo_a', progress=False)
    labels = answer_by_truth(suggest_chips(first, LABELLED), cube.landslides)
    begun, cpu = time.perf_counter(), children_cpu()
    second = retrain(first, labels, plan=TurnPlan(args.model)).wait(900)
    wall, cpu = time.perf_counter() - begun, children_cpu() - cpu
    unseen, truth = label_image(labels, cube.landslides).values == 255, cube.landslides.values
    before, after = (average_precision(run_probability(run).values[unseen], truth[unseen]) for run in (first, second))
    print(f'{wall:.0f} s by the clock on {len(os.sched_getaffinity(0))} processors, {cpu:.0f} CPU s; AUPRC where nobody looked {before:.2f} -> {after:.2f}')

if __name__ == '__main__': main()
