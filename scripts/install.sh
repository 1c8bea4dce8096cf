#!/bin/sh
# Install banger, its runtime and its completion into PREFIX, and say what is left to do.
# `make install` runs it: scripts/install.sh PREFIX
set -eu
cd "$(dirname "$0")/.."
prefix=$1

test -f runtime/bundle.json || { echo "there is no ./runtime to install; fix: make runtime" >&2; exit 1; }

bash=$prefix/share/bash-completion/completions
zsh=$prefix/share/zsh/site-functions
install -d "$prefix/bin" "$prefix/lib" "$bash" "$zsh"
install -m 0755 banger bangerd "$prefix/bin"
rm -rf "$prefix/lib/.banger.new"
cp -R --reflink=auto --sparse=always runtime "$prefix/lib/.banger.new"
install -m 0755 banger-agent "$prefix/lib/.banger.new/agent"
rm -rf "$prefix/lib/banger"
mv "$prefix/lib/.banger.new" "$prefix/lib/banger"
"$prefix/bin/banger" completion bash >"$bash/banger"
"$prefix/bin/banger" completion zsh >"$zsh/_banger"

# step prints what is left to do, and the command that does it.
left=
step() {
	[ "$left" ] || printf '\nNext:\n'
	left=1
	printf '  %s\n      %s\n' "$1" "$2"
}

in_path() { case ":$PATH:" in *":$prefix/bin:"*) ;; *) return 1 ;; esac; }

# running prints the runtime of the daemon that runs. It was started before this.
running() { "$prefix/bin/banger" daemon status 2>/dev/null | sed -n 's/^runtime  *//p' | grep .; }

# completes reports whether new bash shells load completion files by themselves.
completes() {
	case $prefix in "$HOME/.local" | /usr | /usr/local) ;; *) return 1 ;; esac
	[ -r /usr/share/bash-completion/bash_completion ] && grep -qs bash_completion "$HOME/.bashrc" /etc/bash.bashrc /etc/profile.d/bash_completion.sh
}

echo "Installed banger and bangerd in $prefix/bin, and the runtime in $prefix/lib/banger."
in_path || step "$prefix/bin is not in your PATH:" "echo 'export PATH=\"$prefix/bin:\$PATH\"' >>~/.profile, then log in again"
case ${SHELL:-} in
*/bash)
	if completes; then
		echo "Completion for bash is installed: open a new shell."
	else
		step "completion, in new shells:" "echo 'source <(banger completion bash)' >>~/.bashrc"
	fi
	;;
*/zsh) step "completion, in new shells:" "echo 'source <(banger completion zsh)' >>~/.zshrc" ;;
esac
if old=$(running); then
	step "the daemon still runs as before, and makes new VMs from $old; stop it, running VMs are not affected:" "$prefix/bin/banger daemon stop"
fi
[ "$left" ] || echo "Ready: banger vm create"
