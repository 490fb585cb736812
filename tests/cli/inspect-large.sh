# Of a large checkpoint little is read: what is shown is the same as what a look
# at all of it shows, and only --doctor finds what lies deep inside.
. "$ROOT/tests/cli/lib"
[ -x "$GPTQ_BIN/bench/hollow" ] || skip "bench/hollow is not built"
"$GPTQ_BIN/bench/hollow" big 6 4096 11008 4096 3 full
gptq-inspect big --layers >glance
gptq-inspect big | grep -v '/s\|files\|model-0'
gptq-inspect big --layers --doctor | grep -v '^warning\|^    ' >full
cmp glance full
gptq-inspect big --json | grep -c '"glance": true'
# the last entry of one g_idx wrong, which no glance sees
offset=$(gptq-inspect big --tensors --match 'layers.2.mlp.down_proj.g_idx' |
	awk 'NR == 2 { print $(NF - 1), $NF }')
file=${offset#* }
offset=${offset% *}
printf '\0\0\0\0' | dd of="big/$file" bs=1 conv=notrunc \
	seek=$((offset + 4 * 11007)) 2>/dev/null
gptq-inspect big --json | grep -c gidx-uneven
gptq-inspect big --doctor | grep -c gidx-uneven
