#!/usr/bin/env python3
"""Chooses the 16 rows of planetlab16_rtt_ms.csv; README.md in this folder says how and why.

    choose_rows.py planetlab490_median_ms.csv > planetlab16_rtt_ms.csv      (original row numbers go to stderr)
"""

import csv
import sys

ROWS = 16
APART_MS = 20.0  # closer rows would be the same place to a user
ACROSS_MS = 350.0  # beyond lie overloaded hosts, not distances
DETOUR = 1.25  # a direct way may be this much longer than one over any third chosen row


def admissible(rtt, chosen, row):
    if not all(APART_MS <= rtt[row][other] <= ACROSS_MS for other in chosen):
        return False
    for a in chosen:
        for b in chosen:
            sides = sorted((rtt[a][b], rtt[a][row], rtt[b][row]))
            if a < b and sides[2] > DETOUR * (sides[0] + sides[1]):
                return False
    return True


def choose(rtt):
    everyone = range(len(rtt))
    nearest = [1000.0] * len(rtt)
    chosen = []
    while len(chosen) < ROWS:
        rest = [r for r in everyone if r not in chosen and admissible(rtt, chosen, r)]
        best = min(rest, key=lambda r: (sum(min(nearest[j], rtt[r][j]) for j in everyone), r))
        chosen.append(best)
        nearest = [min(nearest[j], rtt[best][j]) for j in everyone]
    return chosen


def main():
    with open(sys.argv[1], newline="") as source:
        cells = list(csv.reader(source))
    chosen = choose([[float(cell) for cell in row] for row in cells])
    print("original rows, from 0:", *chosen, file=sys.stderr)
    for a in chosen:
        print(",".join("0" if a == b else cells[a][b] for b in chosen))


main()
