"""Who is slow, when and why: requests grouped by time to first token, and what sets the slowest apart.

All functions take the tables of `sim.results.frames`; requests without a first token are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from policies.base import FloatArray
from sim.results.summary import PARTS

if TYPE_CHECKING:
    import pandas as pd

EDGES = (0.0, 0.5, 0.9, 0.99, 1.0)  # shares of requests, fastest first
GROUPS = ("fastest half", "50 to 90 %", "90 to 99 %", "slowest 1 %")


def slowest(requests: pd.DataFrame, share: float = 0.01) -> pd.DataFrame:
    """Return the requests with the longest `ttft_s`, slowest first, at least one; ties go by id.

    Raises:
        ValueError: if the share is not between 0 and 1, or no request has a first token.
    """
    served = requests[requests["ttft_s"].notna()]
    if not 0 < share <= 1 or len(served) == 0:
        msg = f"the slowest need a share in (0, 1] and requests with a first token, got {share} of {len(served)}"
        raise ValueError(msg)
    ordered = served.sort_values(["ttft_s", "request_id"], ascending=[False, True])
    return ordered.head(max(1, round(share * len(served))))


def ttft_parts(requests: pd.DataFrame, by: Literal["ttft", "rank"] = "ttft") -> pd.DataFrame:
    """Return the mean parts of `ttft_s` in ms, and `n`, of all requests and of each group.

    Args:
        requests: the table of one run.
        by: "ttft" for four groups from the fastest half to the slowest 1 %, "rank" for a group per adapter rank.
    """
    import pandas as pd  # noqa: PLC0415 - takes seconds to import

    served = requests[requests["ttft_s"].notna()]
    groups = _by_rank(served) if by == "rank" else _by_ttft(served)
    tables = {"all": served} | {name: served[groups == name] for name in dict.fromkeys(groups.sort_values())}
    means = {
        str(name): {part: float(one[f"{part}_s"].mean()) * 1e3 for part in PARTS} | {"n": len(one)}
        for name, one in tables.items()
    }
    return pd.DataFrame.from_dict(means, orient="index").astype({"n": "int64"})


def _by_rank(served: pd.DataFrame) -> pd.Series:
    import pandas as pd  # noqa: PLC0415

    ranks = sorted(served["adapter_rank"].unique())
    names = {rank: f"rank {rank}" if rank else "base model" for rank in ranks}
    named = served["adapter_rank"].map(names)
    return named.astype(pd.CategoricalDtype(list(names.values()), ordered=True))


def _by_ttft(served: pd.DataFrame) -> pd.Series:
    import pandas as pd  # noqa: PLC0415

    order = np.lexsort((served["request_id"].to_numpy(), served["ttft_s"].to_numpy()))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    edges = np.rint(np.array(EDGES[1:-1]) * len(order))
    group = np.searchsorted(edges, place, side="right")
    names = np.array(GROUPS, dtype=object)[group]
    return pd.Series(names, index=served.index).astype(pd.CategoricalDtype(list(GROUPS), ordered=True))


def portrait(requests: pd.DataFrame, share: float = 0.01, window_s: float = 10.0) -> pd.DataFrame:
    """Return traits of the slowest beside those of all: columns `all`, `slowest` (means) and `ratio`.

    A ratio near 1 says that the trait does not tell the slow from the others.

    Args:
        requests: the table of one run.
        share: how many count as slow.
        window_s: arrivals and their tokens are counted over so many seconds before each request.
    """
    import pandas as pd  # noqa: PLC0415

    traits = _traits(requests, window_s)
    slow = traits.loc[slowest(requests, share).index].mean()
    everyone = traits[requests["ttft_s"].notna()].mean()
    return pd.DataFrame({"all": everyone, "slowest": slow, "ratio": slow / everyone})


def _traits(requests: pd.DataFrame, window_s: float) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415

    arrival_s = requests["arrival_s"].to_numpy()
    tokens = (requests["prompt_tokens"] + requests["output_tokens"]).to_numpy(dtype=np.float64)
    uses = requests["adapter_id"].value_counts(dropna=False)
    return pd.DataFrame(
        {
            "prompt tokens": requests["prompt_tokens"],
            "output tokens": requests["output_tokens"],
            "adapter rank": requests["adapter_rank"],
            "adapter's share of traffic (%)": 100 * requests["adapter_id"].map(uses / len(requests)),
            "adapter had to be loaded (%)": 100.0 * requests["adapter_source"].isin(["host", "disk", "inflight"]),
            f"arrivals/s, {window_s:g} s before": _per_s(arrival_s, np.ones(len(tokens)), window_s),
            f"tokens/s asked, {window_s:g} s before": _per_s(arrival_s, tokens, window_s),
        },
        index=requests.index,
    )


def _per_s(arrival_s: FloatArray, amounts: FloatArray, window_s: float) -> FloatArray:
    """Return the amounts per second that came in the window up to and with each arrival."""
    order = np.argsort(arrival_s, kind="stable")
    total = np.append(0.0, np.cumsum(amounts[order]))
    low, high = (np.searchsorted(arrival_s[order], at, side="right") for at in (arrival_s - window_s, arrival_s))
    rate: FloatArray = (total[high] - total[low]) / window_s
    return rate


def episodes(requests: pd.DataFrame, share: float = 0.01, gap_s: float = 10.0) -> pd.DataFrame:
    """Return when the slowest came: a row per cluster, with `start_s`, `end_s` (its last first token), `n`, `worst_s`.

    Args:
        requests: the table of one run.
        share: how many count as slow.
        gap_s: a cluster ends where the next slow request comes more than this later.
    """
    slow = slowest(requests, share).sort_values(["arrival_s", "request_id"])
    cluster = (slow["arrival_s"].diff() > gap_s).cumsum()
    grouped = slow.groupby(cluster.to_numpy())
    table: pd.DataFrame = grouped.agg(
        start_s=("arrival_s", "min"), end_s=("first_token_s", "max"), n=("ttft_s", "size"), worst_s=("ttft_s", "max")
    )
    return table


def during(timeseries: pd.DataFrame, spans: pd.DataFrame) -> pd.DataFrame:
    """Return the mean state of the engine, `all` the time and `slow`: from `start_s` to `end_s` of any of the spans."""
    import pandas as pd  # noqa: PLC0415

    at = timeseries["t_s"].to_numpy()
    inside = np.zeros(len(at), dtype=np.bool_)
    for start, end in zip(spans["start_s"], spans["end_s"], strict=True):
        inside |= (at >= start) & (at <= end)
    state = timeseries.drop(columns="t_s")
    return pd.DataFrame({"all": state.mean(), "slow": state[inside].mean()})
