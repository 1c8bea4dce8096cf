# What is good to know of this VM, at a login. ~/.hushlogin turns it off.
case $- in *i*) ;; *) return 0 ;; esac
if [ -t 1 ] && [ "${SHLVL:-1}" -le 1 ] && [ -z "${TMUX-}" ] && [ ! -e ~/.hushlogin ]; then
    df --output=avail,size -h / /root 2>/dev/null | {
        read -r _ && read -r avail size && printf 'Disks:   / has %s of %s free, for packages and Docker' "$avail" "$size"
        read -r avail size && printf '; /root %s of %s' "$avail" "$size"
        printf '\n'
    }
    read -r _ _ _ address _ <<END
$(ip -4 -oneline address show dev eth0 2>/dev/null)
END
    domain=$(sed -n 's/^search //p' /etc/resolv.conf 2>/dev/null)
    if [ "$address" ]; then
        printf 'Network: %s%s, %s\n' "$(hostname)" "${domain:+.${domain%% *}}" "${address%/*}"
    else
        echo 'Network: none'
    fi
    if [ -S /run/containerd/containerd.sock ]; then
        echo 'Docker:  runs'
    elif [ -S /run/docker.sock ]; then
        echo 'Docker:  starts when you first use it'
    else
        echo 'Docker:  starts once the VM has booted'
    fi
    unset address domain
fi
