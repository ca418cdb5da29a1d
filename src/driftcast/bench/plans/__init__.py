"""What plans reach: every figure of docs/results/plans.md is measured by `python -m driftcast.bench.plans WHAT`."""
