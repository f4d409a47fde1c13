#!/usr/bin/env python3
"""Golden values for the recorded data, computed apart from the program.

Standard library only, and no code shared with the Rust that is tested against it.

    python3 data/expected.py           writes data/expected.json
    python3 data/expected.py --check   fails when data/expected.json is not what it would write

Rounding: every mean is computed exactly (as a fraction) and rounded once, to 2 decimals, halves
away from zero. Rain is summed in tenths of a millimetre, which is how it was recorded, so its one
decimal is exact. Costs and delays are whole numbers. Orders are by the exact value, never by the
rounded one, and every tie is broken as its function says.
"""

import csv
import json
import sys
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT = HERE / "expected.json"


def rows(name):
    with open(HERE / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def document(name):
    with open(HERE / name, encoding="utf-8") as file:
        return json.load(file)


def rounded(value, decimals):
    """`value`, a Fraction, to so many decimals, halves away from zero."""
    scale = 10**decimals
    scaled = abs(value) * scale
    whole = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    return (whole if 0 <= value else -whole) / scale


def flights():
    """Delays in minutes; a negative one is an early flight, and counts as it is."""
    delays = defaultdict(list)
    for flight in document("flights-20k.json"):
        delays[flight["origin"]].append(flight["delay"])
    every = [it for of_origin in delays.values() for it in of_origin]

    def mean(values):
        return Fraction(sum(values), len(values))

    def line(origin):
        of_origin = delays[origin]
        return {
            "origin": origin,
            "count": len(of_origin),
            "mean_delay": rounded(mean(of_origin), 2),
            "max_delay": max(of_origin),
        }

    busy = [origin for origin in delays if 50 <= len(delays[origin])]
    busy.sort(key=lambda origin: (-mean(delays[origin]), origin))
    return {
        "count": len(every),
        "mean_delay": rounded(mean(every), 2),
        "max_delay": max(every),
        "by_origin": [line(origin) for origin in sorted(delays)],
        "worst_10_with_50_flights": [line(origin) for origin in busy[:10]],
    }


def weather():
    """Rain (and melted snow) in mm, per location and month."""
    tenths = defaultdict(lambda: defaultdict(int))
    for row in rows("weather.csv"):
        rain = Fraction(row["precipitation"]) * 10
        assert rain.denominator == 1, f"finer than a tenth: {row}"
        tenths[row["location"]][row["date"][:7]] += rain.numerator
    return {
        "monthly_rain_mm": {
            location: {month: months[month] / 10 for month in sorted(months)}
            for location, months in sorted(tenths.items())
        }
    }


def earthquakes():
    """Ties in magnitude are broken by the id, ascending; `time` is in ms since 1970, UTC."""
    events = [
        {
            "id": it["id"],
            "mag": it["properties"]["mag"],
            "place": it["properties"]["place"],
            "time": it["properties"]["time"],
        }
        for it in document("earthquakes.json")["features"]
        if it["properties"]["mag"] is not None
    ]
    events.sort(key=lambda it: (-it["mag"], it["id"]))
    return {"count": len(events), "strongest_10": events[:10]}


def birdstrikes():
    """Ties in cost: by date, airport, species, then the place in the file; sums: by name."""
    strikes = [
        {
            "cost": int(row["Cost Total $"]),
            "airport": row["Airport Name"],
            "date": row["Flight Date"],
            "species": row["Wildlife Species"],
            "operator": row["Aircraft Airline Operator"],
        }
        for row in rows("birdstrikes.csv")
    ]

    def top_by(column):
        sums = defaultdict(lambda: [0, 0])
        for it in strikes:
            sums[it[column]][0] += it["cost"]
            sums[it[column]][1] += 1
        names = sorted(sums, key=lambda name: (-sums[name][0], name))
        return [{column: it, "cost": sums[it][0], "count": sums[it][1]} for it in names[:10]]

    costliest = sorted(
        strikes, key=lambda it: (-it["cost"], it["date"], it["airport"], it["species"])
    )
    return {
        "count": len(strikes),
        "cost": sum(it["cost"] for it in strikes),
        "costliest_10": costliest[:10],
        "top_10_species": top_by("species"),
        "top_10_operators": top_by("operator"),
    }


def main():
    expected = {
        "flights": flights(),
        "weather": weather(),
        "earthquakes": earthquakes(),
        "birdstrikes": birdstrikes(),
    }
    text = json.dumps(expected, indent=1, ensure_ascii=False) + "\n"
    if "--check" in sys.argv[1:]:
        if not OUT.exists() or OUT.read_text(encoding="utf-8") != text:
            sys.exit(f"{OUT.name} is stale: run python3 data/{Path(__file__).name}")
        return
    OUT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
