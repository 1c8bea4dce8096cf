package store

import (
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/durable/durabletest"
	"banger/internal/network"
)

var update = flag.Bool("update", false, "write testdata/v<schema>.db anew")

// old is what every testdata/v*.db holds.
var oldImage = banger.Image{Name: "docker", ID: "sha256:aa", Size: banger.GiB, Origin: "debian", CreatedAt: time.Unix(1795500000, 0).UTC()}

func TestOldDatabasesOpen(t *testing.T) {
	if *update {
		all, _ := steps()
		writeOld(t, fmt.Sprintf("testdata/v%d.db", len(all))) // older ones stay as they are
	}
	names, err := filepath.Glob("testdata/v*.db")
	all, _ := steps()
	if err != nil || len(names) != len(all) {
		t.Fatalf("%d databases for %d schemas, %v: run go test ./internal/store -update", len(names), len(all), err)
	}
	for _, name := range names {
		path := filepath.Join(t.TempDir(), "banger.db")
		copyFile(t, name, path)
		s := openAt(t, path)
		vms, err := s.VMs(t.Context())
		want := sample("0123456789ab", "calm-otter")
		if strings.HasSuffix(name, "v1.db") {
			want.Slot = network.FirstSlot // in the order of the IDs
			want.Published = ""
		}
		if err != nil || len(vms) != 1 || vms[0] != want {
			t.Errorf("%s: got %+v, %v", name, vms, err)
		}
		if image, err := s.Image(t.Context(), "docker"); err != nil || image != oldImage {
			t.Errorf("%s: got %+v, %v", name, image, err)
		}
	}
}

func writeOld(t *testing.T, path string) {
	os.Remove(path)
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(s.PutImage(t.Context(), oldImage), insert(t.Context(), s, sample("0123456789ab", "calm-otter")), s.Close())
	if err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestMigrationCopiesFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "banger.db")
	s := openAt(t, path)
	stock(t, s)
	if err := insert(t.Context(), s, sample("0123456789ab", "otter")); err != nil {
		t.Fatal(err)
	}
	all, err := steps()
	if err != nil {
		t.Fatal(err)
	}
	next := append(all, "ALTER TABLE vms ADD COLUMN note TEXT NOT NULL DEFAULT ''; DELETE FROM vms;")
	disk := durabletest.New(t, filepath.Dir(path))
	if err := migrateTo(t.Context(), s.writer, path, next); err != nil {
		t.Fatal(err)
	}
	if vms, _ := s.VMs(t.Context()); len(vms) != 0 {
		t.Error("the step did not run")
	}
	copied := fmt.Sprintf("%s.v%d.bak", path, len(all))
	disk.Check(copied)
	if info, err := os.Stat(copied); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	if vms, err := openAt(t, copied).VMs(t.Context()); err != nil || len(vms) != 1 {
		t.Errorf("the copy holds %v, %v", vms, err)
	}
	if left, _ := filepath.Glob(path + "*.tmp"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestFailedMigrationChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "banger.db")
	s := openAt(t, path)
	all, _ := steps()
	broken := append(all, "CREATE TABLE extra (x); INSERT INTO nowhere VALUES (1);")
	if err := migrateTo(t.Context(), s.writer, path, broken); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("migrate to schema %d", len(all)+1)) {
		t.Errorf("got %v", err)
	}
	var version, tables int
	s.writer.QueryRow("PRAGMA user_version").Scan(&version)
	s.writer.QueryRow("SELECT count(*) FROM sqlite_schema WHERE name = 'extra'").Scan(&tables)
	if version != len(all) || tables != 0 {
		t.Errorf("schema %d, %d new tables", version, tables)
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "banger.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("CREATE TABLE t (x); PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	_, err = Open(t.Context(), path)
	if banger.KindOf(err) != banger.Conflict || banger.FixOf(err) == "" || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, fix %q", err, banger.FixOf(err))
	}
}

func TestDamagedDatabaseIsNamedAndKept(t *testing.T) {
	whole, err := os.ReadFile("testdata/v1.db")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"no database": []byte(strings.Repeat("this is not a database\n", 1000)),
		"torn":        append(append([]byte{}, whole[:4096]...), make([]byte, len(whole)-4096)...),
	} {
		path := filepath.Join(t.TempDir(), "banger.db")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), path)
		if banger.KindOf(err) != banger.Unready || !strings.Contains(err.Error(), path) || !strings.Contains(banger.FixOf(err), path) {
			t.Errorf("%s: got %v, fix %q", name, err, banger.FixOf(err))
		}
		if kept, _ := os.ReadFile(path); string(kept) != string(data) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

// libcOf is the modernc.org/libc that each modernc.org/sqlite was made with, as
// its go.mod says. Any other version crashes sooner or later.
var libcOf = map[string]string{"v1.62.0": "v1.80.1"}

func TestLibcIsTheOneThatSQLiteWants(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	version := func(module string) string {
		found := regexp.MustCompile(`(?m)^\s*(?:require )?` + regexp.QuoteMeta(module) + ` (\S+)`).FindSubmatch(mod)
		if found == nil {
			t.Fatalf("go.mod does not require %s", module)
		}
		return string(found[1])
	}
	sqlite, libc := version("modernc.org/sqlite"), version("modernc.org/libc")
	if want := libcOf[sqlite]; libc != want {
		t.Errorf("sqlite %s goes with libc %q (see its go.mod), not %s", sqlite, want, libc)
	}
}
