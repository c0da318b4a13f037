#!/usr/bin/env bash
# Creates the environment and runs the tests on faked CPU devices:
#
#   bash launch/test.sh [--dry_run] [pytest arguments, paths relative to the repository root]
#
# The exit status is pytest's.
set -euo pipefail
# shellcheck source=launch/environment.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
while is_common_option "${1:-}"; do shift; done

make_environment test
execute cd -- "$REPOSITORY"
# Processes that the tests start must not use a GPU either. One worker per core; each
# test file stays on one worker, since its tests share runs.
# Later options take precedence: `-n 0` runs all tests in one process.
become env JAX_PLATFORMS=cpu python -m pytest -n auto --dist loadfile "$@"
