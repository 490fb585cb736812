# A layer is never whole in memory as codes, whatever becomes of it: its largest
# linears are of 32 Mi weights here, and what is written of it stands in for
# layers of any size.
. "$ROOT/tests/cli/lib"
# what a sanitizer takes for itself counts, and how much that is varies
case $GPTQ_BIN in
*san) skip "sanitizers take memory of their own" ;;
esac
hollow=$GPTQ_BIN/bench/hollow
peak=$GPTQ_BIN/tests/peak
[ -x "$hollow" ] && [ -x "$peak" ] || skip "bench/hollow is not built"
"$hollow" plain 1 512 65536 512 1 full
"$hollow" order 1 512 65536 512 1 act
repack() { # MIB OPTIONS...
	limit=$1
	shift
	"$peak" "$limit" gptq-repack -q -t 1 "$@" >/dev/null
	rm -r out*
}
# the codes of one linear are 32 MiB in bytes, 16 in the file
repack 64 plain -o out --to marlin
repack 64 plain -o out.gguf --to gguf
repack 64 plain -o out --to dense
repack 72 order -o out --act-order drop
echo done
