"""The repository of plans that tests publish and fetch, without a hub."""

REPO, COMMIT = "me/shapes-flux-plans", "0123456789" * 4
