# Another build of banger, in $OTHER, a checkout.
BANGER_DIR=${OTHER:-}
. "$ROOT/scripts/compare/rivals/banger.sh"
[ -n "${OTHER:-}" ] || missing() { echo "OTHER is not set; OTHER=/path/to/another/checkout scripts/compare/compare.sh"; }
