package fetch

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
)

func tarOf(t *testing.T, headers ...tar.Header) string {
	t.Helper()
	var out bytes.Buffer
	packer := gzip.NewWriter(&out)
	members := tar.NewWriter(packer)
	for _, header := range headers {
		if err := members.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := members.Write(make([]byte, header.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(members.Close(), packer.Close()); err != nil {
		t.Fatal(err)
	}
	return fileOf(t, out.Bytes())
}

func zipOf(t *testing.T, name string, mode fs.FileMode, size int) string {
	t.Helper()
	var out bytes.Buffer
	packer := zip.NewWriter(&out)
	header := &zip.FileHeader{Name: name, Method: zip.Deflate}
	header.SetMode(mode)
	w, err := packer.CreateHeader(header)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if err := packer.Close(); err != nil {
		t.Fatal(err)
	}
	return fileOf(t, out.Bytes())
}

func fileOf(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFromTarTakesTheOneMember(t *testing.T) {
	archive := tarOf(t,
		tar.Header{Name: "../../etc/passwd", Typeflag: tar.TypeReg, Size: 3},
		tar.Header{Name: "release/", Typeflag: tar.TypeDir},
		tar.Header{Name: "release/vmm", Typeflag: tar.TypeReg, Size: 1000},
	)
	var out bytes.Buffer
	if err := FromTar(t.Context(), archive, "release/vmm", banger.KiB, &out); err != nil || out.Len() != 1000 {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
}

func TestHostileTar(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	vmm := tar.Header{Name: "vmm", Typeflag: tar.TypeReg, Size: 2000}
	text, err := os.ReadFile(tarOf(t, vmm))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		ctx     context.Context
		archive string
		says    string
	}{
		"a link":      {t.Context(), tarOf(t, tar.Header{Name: "vmm", Typeflag: tar.TypeSymlink, Linkname: "/bin/sh"}), "not a regular file"},
		"a hard link": {t.Context(), tarOf(t, tar.Header{Name: "vmm", Typeflag: tar.TypeLink, Linkname: "other"}), "not a regular file"},
		"a device":    {t.Context(), tarOf(t, tar.Header{Name: "vmm", Typeflag: tar.TypeChar}), "not a regular file"},
		"a directory": {t.Context(), tarOf(t, tar.Header{Name: "vmm", Typeflag: tar.TypeDir}), "not a regular file"},
		"too large":   {t.Context(), tarOf(t, vmm), "the limit"},
		"not there":   {t.Context(), tarOf(t, tar.Header{Name: "./vmm", Typeflag: tar.TypeReg}), "does not contain it"},
		"empty":       {t.Context(), tarOf(t), "does not contain it"},
		"no archive":  {t.Context(), fileOf(t, []byte("<html>sign in</html>")), "gzip"},
		"cut off":     {t.Context(), fileOf(t, text[:len(text)/2]), "EOF"},
		"canceled":    {canceled, tarOf(t, vmm), "canceled"},
		"missing":     {t.Context(), "/nonexistent/archive", "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			err := FromTar(test.ctx, test.archive, "vmm", banger.KiB, &out)
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want one with %q", err, test.says)
			}
			if out.Len() > int(banger.KiB)+1 {
				t.Errorf("wrote %d bytes", out.Len())
			}
		})
	}
}

func TestFromZip(t *testing.T) {
	var out bytes.Buffer
	if err := FromZip(t.Context(), zipOf(t, "bin/vmm", 0o755, 1000), "bin/vmm", banger.KiB, &out); err != nil || out.Len() != 1000 {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
	for name, test := range map[string]struct{ archive, says string }{
		"too large":  {zipOf(t, "bin/vmm", 0o755, 2000), "the limit"},
		"a link":     {zipOf(t, "bin/vmm", fs.ModeSymlink|0o777, 10), "not a regular file"},
		"not there":  {zipOf(t, "../bin/vmm", 0o755, 10), "does not contain it"},
		"no archive": {fileOf(t, []byte("nothing")), "zip"},
	} {
		if err := FromZip(t.Context(), test.archive, "bin/vmm", banger.KiB, io.Discard); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want one with %q", name, err, test.says)
		}
	}
}
