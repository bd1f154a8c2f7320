#!/bin/bash
# again.sh EXIT_CODE [PYTEST...]: after a whole run of the tests, runs the few that failed once more, alone.
# A test that passes alone failed for what ran beside it. That is a fault, of the test or of the product, and is named so
# that somebody cures it. It is not what the change under test broke, so it does not stop the change. More than MOST
# failures, and a run that did not come to its end, are never tried again.
set -euo pipefail
MOST=3

code=$1 && shift
cd "$(dirname "$0")/.."
failed=$(.venv/bin/python -c 'import json; print(*json.load(open(".pytest_cache/v/cache/lastfailed")), sep="\n")')
count=$(grep -c . <<<"$failed" || true)
if [ "$code" != 1 ] || [ "$count" = 0 ] || [ "$count" -gt $MOST ]; then
    exit "$code"
fi
echo "== failed beside all others, so once more, alone:"
echo "$failed"
"$@" -p no:xdist --last-failed --last-failed-no-failures none tests
echo "== PASSED ALONE, and is a fault to be cured all the same:"
echo "$failed"
