#!/bin/sh
# usage: install.sh [PACKAGE]...
#
# Runs inside the new root, in a chroot of mmdebstrap's or in a stage of a Dockerfile: installs the
# packages that fetch.sh or add.sh downloaded, then the .deb files beside this script, and writes down
# what is installed. Nothing of the caller's environment but the time, and the name of a file with
# apt's settings, reaches the packages' scripts.
set -eu
umask 022
work=/tmp/imagekit
if [ -z "${IMAGEKIT_CLEAN:-}" ]; then
    exec env -i IMAGEKIT_CLEAN=1 SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:?}" TZ=UTC HOME=/root \
        LC_ALL=C.UTF-8 LANG=C.UTF-8 LANGUAGE=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        ${IMAGEKIT_APT:+APT_CONFIG="$IMAGEKIT_APT"} \
        /bin/sh "$0" "$@"
fi

# No package starts a daemon here. mmdebstrap sees to that itself where it runs this script.
policy=/usr/sbin/policy-rc.d starter=/sbin/start-stop-daemon
made_policy='' made_starter=''
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 0755 "$policy"
    made_policy=yes
fi
if [ -f "$starter" ] && [ ! -e "$starter.REAL" ]; then
    mv "$starter" "$starter.REAL"
    printf '#!/bin/sh\nexit 0\n' > "$starter"
    chmod 0755 "$starter"
    made_starter=yes
fi

if [ "$#" -gt 0 ]; then
    apt-get --yes --no-install-recommends --no-download install "$@"
fi
set -- "$work"/*.deb
if [ -e "$1" ]; then
    if [ -x /usr/bin/apt-get ]; then
        # apt takes files by name only where it might also download (their packages are here)
        apt-get --yes --no-install-recommends install "$@"
    else
        dpkg --install "$@"
    fi
fi

if [ -n "$made_policy" ]; then
    rm "$policy"
fi
if [ -n "$made_starter" ]; then
    mv "$starter.REAL" "$starter"
fi
# shellcheck disable=SC2016 # the fields are dpkg-query's, not the shell's
dpkg-query --show --showformat='${Package}\t${Version}\t${Architecture}\n' > "$work/installed"
