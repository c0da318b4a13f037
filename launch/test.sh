#!/usr/bin/env bash
# Creates the environment and runs the tests on faked CPU devices:
#
#   bash launch/test.sh [--dry_run] [pytest arguments, paths relative to the repository root]
#
# The exit status is pytest's.
set -euo pipefail
# shellcheck source=launch/environment.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
if [ "${1:-}" = --dry_run ]; then
  export JAXDP_DRY_RUN=1
  shift
fi

make_environment test
cd -- "$REPOSITORY"
# Processes that the tests start must not use a GPU either.
export JAX_PLATFORMS=cpu
# One worker per core. Each test file stays on one worker, since its tests share runs.
# Later options take precedence: `-n 0` runs all tests in one process.
become python -m pytest -n auto --dist loadfile "$@"
