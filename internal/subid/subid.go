// Package subid reads which subordinate user and group ids a user has. A plain
// user needs a range of them to unpack files that have many owners. It changes
// nothing.
package subid

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"banger"
)

// Enough is how many ids a Debian system's files need.
const Enough = 65536

// first is where useradd begins to hand out ranges.
const first = 100000

// Check returns nil if etc/subuid and etc/subgid below root give the user a range
// of Enough ids. Otherwise it returns an Unready error, whose fix adds a range that
// nobody has.
func Check(root, user string, uid int) error {
	from := first
	var lacking []string
	for _, name := range []string{"etc/subuid", "etc/subgid"} {
		path := filepath.Join(root, name)
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		largest, next := ranges(string(text), user, uid)
		from = max(from, next)
		if largest < Enough {
			lacking = append(lacking, path)
		}
	}
	if lacking == nil {
		return nil
	}
	to := from + Enough - 1
	return &banger.Error{
		Kind: banger.Unready, Why: fmt.Errorf("%s has no range of %d ids in %s", user, Enough, strings.Join(lacking, " and ")),
		Fix: fmt.Sprintf("sudo usermod --add-subuids %d-%d --add-subgids %d-%d %s", from, to, from, to, user),
	}
}

// ranges returns the size of the user's largest range, and the first id above
// everybody's ranges.
func ranges(text, user string, uid int) (largest, next int) {
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) != 3 {
			continue
		}
		from, err1 := strconv.Atoi(fields[1])
		count, err2 := strconv.Atoi(fields[2])
		if err1 != nil || err2 != nil {
			continue
		}
		next = max(next, from+count)
		if fields[0] == user || fields[0] == strconv.Itoa(uid) {
			largest = max(largest, count)
		}
	}
	return largest, next
}
