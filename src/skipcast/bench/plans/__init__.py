"""What plans reach: every figure of docs/results/plans.md is measured by `python -m skipcast.bench.plans WHAT`."""
