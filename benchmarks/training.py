"""A training in a process of its own, logging with MLflow's real client.

    python -m benchmarks.training paced URI RUNS RATE SECONDS       # RATE points/s in each run, value: the wall time,
        printed at the end: the median seconds of a call
    python -m benchmarks.training fast URI OTHER_URI ROUNDS SECONDS

``fast`` logs as fast as it can, in turn into a store that is followed (URI) and two runs of one that is not (``alone``
and ``control``: how these two differ is the noise), SECONDS each, and prints one JSON object: calls per second for each
turn, errors and the slowest call.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

SETTLE_S = 0.5  # the follower ends what the last segment has left to do


def paced(uri: str, runs: int, rate: float, seconds: float) -> None:
    """Log wall times, each run from a thread of its own; runs of many points use log_batch of ten, as trainers do."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment(f"paced-{time.time_ns()}")
    ids = [client.create_run(experiment).info.run_id for _ in range(runs)]
    calls_s: list[float] = []
    threads = [threading.Thread(target=_pace, args=(client, run, rate, seconds, calls_s)) for run in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for run in ids:
        client.set_terminated(run)
    print(sorted(calls_s)[len(calls_s) // 2], flush=True)


def _pace(client: MlflowClient, run: str, rate: float, seconds: float, calls_s: list[float]) -> None:
    begun_s = time.monotonic()
    at_once = 10 if rate > 20 else 1
    for number in range(int(rate * seconds / at_once)):
        time.sleep(max(0.0, begun_s + number * at_once / rate - time.monotonic()))
        now_s = time.time()
        points = [Metric(f"written_at_{key}", now_s, int(now_s * 1000), number) for key in range(at_once)]
        if at_once == 1:
            client.log_metric(run, "written_at", now_s, step=number)
        else:
            client.log_batch(run, metrics=points)
        calls_s.append(time.time() - now_s)


def fast(followed: str, alone: str, rounds: int, seconds: float) -> None:
    """Measure what one thread can log; see the module."""
    places = []
    for name, uri in (("followed", followed), ("alone", alone), ("control", alone)):
        client = MlflowClient(tracking_uri=uri)
        experiment = client.create_experiment(f"fast-{name}-{time.time_ns()}")
        places.append((name, client, client.create_run(experiment).info.run_id))
    told: dict[str, list[float]] = {name: [] for name, _, _ in places}
    slowest_s = dict.fromkeys(told, 0.0)
    errors: list[str] = []
    for number in range(rounds):
        turn = number % len(places)
        for name, client, run in (*places[turn:], *places[:turn]):
            time.sleep(SETTLE_S)
            calls, begun_s = 0, time.perf_counter()
            while (now_s := time.perf_counter()) - begun_s < seconds:
                try:
                    client.log_metric(run, "loss", now_s, step=calls)
                except MlflowException as error:
                    errors.append(str(error)[:200])
                calls += 1
                slowest_s[name] = max(slowest_s[name], time.perf_counter() - now_s)
            told[name].append(calls / (time.perf_counter() - begun_s))
    print(json.dumps({**told, "errors": errors, "slowest_s": slowest_s}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "paced":
        paced(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
    else:
        fast(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
