package store

import (
	"strings"
	"sync"
	"testing"

	"banger"
)

func TestAddAndForgetImages(t *testing.T) {
	s, ctx := openTemp(t), t.Context()
	one := banger.Image{Name: "one", ID: "sha256:01", Origin: "a tar"}
	same := banger.Image{Name: "another", ID: "sha256:01", Origin: "a tar"}
	for _, image := range []banger.Image{one, same} {
		if err := s.AddImage(ctx, image); err != nil {
			t.Fatal(err)
		}
	}
	err := s.AddImage(ctx, banger.Image{Name: "one", ID: "sha256:02"})
	if banger.KindOf(err) != banger.Conflict || !strings.HasPrefix(banger.FixOf(err), "banger image delete one") {
		t.Errorf("a taken name: %v, fix %q", err, banger.FixOf(err))
	}
	if known, err := s.KnownImages(ctx); err != nil || len(known) != 1 {
		t.Errorf("known: %v, %v", known, err)
	}
	if id, last, err := s.ForgetImage(ctx, "another"); err != nil || last || id != one.ID {
		t.Errorf("one of two names: %v, %v, %v", id, last, err)
	}
	if image, err := s.Image(ctx, "sha256:01"); err != nil || image.Name != "one" {
		t.Errorf("what is left is called %q, %v", image.Name, err)
	}
	if _, last, err := s.ForgetImage(ctx, "one"); err != nil || !last {
		t.Errorf("the last name: %v, %v", last, err)
	}
	for _, ref := range []string{"one", "sha256:01"} {
		if _, _, err := s.ForgetImage(ctx, ref); banger.KindOf(err) != banger.NotFound {
			t.Errorf("%s is still known: %v", ref, err)
		}
	}
	for _, image := range []banger.Image{one, same} {
		if err := s.AddImage(ctx, image); err != nil {
			t.Fatal(err)
		}
	}
	if _, last, err := s.ForgetImage(ctx, "sha256:01"); err != nil || !last {
		t.Errorf("both names by digest: %v, %v", last, err)
	}
	if all, err := s.Images(ctx); err != nil || len(all) != 0 {
		t.Errorf("left: %v, %v", all, err)
	}
}

func TestImageOfAVMIsNotForgotten(t *testing.T) {
	s, ctx := openStocked(t), t.Context()
	for id, name := range map[string]string{"0123456789ab": "wombat", "0123456789ac": "otter"} {
		if err := insert(ctx, s, sample(id, name)); err != nil { // in phase creating
			t.Fatal(err)
		}
	}
	_, _, err := s.ForgetImage(ctx, "docker")
	if banger.KindOf(err) != banger.Conflict || !strings.Contains(err.Error(), "otter, wombat") ||
		banger.FixOf(err) != "banger vm delete otter wombat, then: banger image delete docker" {
		t.Errorf("%v, fix %q", err, banger.FixOf(err))
	}
	if _, err := s.Image(ctx, "docker"); err != nil {
		t.Error(err)
	}
}

// A VM and the end of its image at the same moment: one of the two is refused.
func TestCreateOrForgetWins(t *testing.T) {
	for range 20 {
		s, ctx := openStocked(t), t.Context()
		var inserted, forget error
		var both sync.WaitGroup
		both.Go(func() { inserted = insert(ctx, s, sample("0123456789ab", "otter")) })
		both.Go(func() { _, _, forget = s.ForgetImage(ctx, "docker") })
		both.Wait()
		_, known := s.Image(ctx, "sha256:aa")
		switch {
		case inserted == nil && banger.KindOf(forget) == banger.Conflict && known == nil:
		case forget == nil && banger.KindOf(inserted) == banger.NotFound && banger.KindOf(known) == banger.NotFound:
		default:
			t.Fatalf("inserted: %v; forget: %v; image: %v", inserted, forget, known)
		}
	}
}
