#!/usr/bin/env bash
# Makes the environment and runs the tests on faked CPU devices:
#
#   bash launch/test.sh [--dry_run] [pytest arguments, paths from the repository's root]
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
# The tests start processes of their own, which must leave a GPU alone as well.
export JAX_PLATFORMS=cpu
# A worker a core, files whole, for their tests share runs that take seconds to make;
# later options beat these: `-n 0` runs all in one process.
become python -m pytest -n auto --dist loadfile "$@"
