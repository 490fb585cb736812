. "$ROOT/tests/cli/lib"
for s in bash zsh fish; do
	gptq --completion $s >c.$s
	# every option of every applet is in it
	gptq --options | while read -r applet option; do
		case $s in
		fish) pattern="gptq-$applet .*-l ${option#--} " ;;
		*) pattern="[^a-z-]${option}[^a-z-]" ;;
		esac
		grep -q -e "$pattern" c.$s || echo "$s: no $applet $option"
	done
done
command -v bash >/dev/null || skip "no bash here"
bash -n c.bash
# what Tab gives: applets, options, values, paths
try() {
	bash -c '. ./c.bash
		COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _gptq
		printf "%s " "${COMPREPLY[@]}"; echo' bash "$@"
}
try gptq in
try gptq inspect --la
try gptq-inspect --ma
try gptq quantize --method ''
try gptq-repack --to g
: >model.x
try gptq run mod
