package banger

import "context"

// BuildService makes images in VMs and from VMs.
type BuildService interface {
	// BuildImage makes an image in a VM of its own, which is deleted afterwards. An image of
	// this name that was built before loses the name; any other that has it is a Conflict.
	BuildImage(ctx context.Context, name string, spec BuildImage, progress Progress) (BuiltImage, error)
	// CommitVM makes an image of a VM's system. A name that an image has is a Conflict.
	CommitVM(ctx context.Context, ref string, opts CommitVM, progress Progress) (Image, error)
	// DiffVM lists what a VM changed of its image, without what is in /root.
	DiffVM(ctx context.Context, ref string, opts DiffVM, progress Progress) (VMDiff, error)
}

// BuildImage says what to make an image of. Packages are installed first, then Docker; then
// the script runs.
type BuildImage struct {
	From     string            `json:"from,omitempty"`         // name of the image to begin with; the default image when absent
	Packages []string          `json:"packages,omitempty"`     // for the package manager of that image
	Docker   bool              `json:"docker,omitempty"`       // install Docker
	Script   string            `json:"script,omitempty"`       // text of a program, which runs as root
	Args     []string          `json:"args,omitempty"`         // `NAME=value`, in the script's environment
	Secrets  map[string]string `json:"secrets,omitempty"`      // files in `/run/secrets` while it is built, by their names
	VCPUs    int               `json:"vcpus,omitempty"`        // virtual CPUs of the build's VM
	Memory   Size              `json:"memory_bytes,omitempty"` // memory of the build's VM
	Size     Size              `json:"size_bytes,omitempty"`   // space for the build beyond the image it begins with
	Rebuild  bool              `json:"rebuild,omitempty"`      // also if nothing has changed since the last build
	VM       string            `json:"vm,omitempty"`           // name of the build's VM; made up when absent
	Keep     string            `json:"keep,omitempty"`         // a lease, as in a VM to create: the VM of a build that fails is kept as long
}

// BuiltImage is the result of a build.
type BuiltImage struct {
	Image     Image  `json:"image"`               // the image
	Unchanged bool   `json:"unchanged,omitempty"` // it was built from the same before
	Log       string `json:"log,omitempty"`       // file with the output of the build
}

// CommitVM says what to make an image of a VM.
type CommitVM struct {
	Name     string `json:"name"`                // the image's name
	WithHome bool   `json:"with_home,omitempty"` // also what is in /root
}

// DiffVM says how to list what a VM has changed.
type DiffVM struct{}

// VMDiff is what a VM has changed of its image.
type VMDiff struct {
	ID       VMID            `json:"id"`           // the VM's ID
	Name     string          `json:"name"`         // the VM's name
	Image    string          `json:"image"`        // the image's name when the VM was created
	ImageID  Digest          `json:"image_digest"` // the image
	Packages []PackageChange `json:"packages"`     // by name
	Files    []FileChange    `json:"files"`        // by path, without those of packages that have changed
}

// PackageChange is a package that is not installed as in the image.
type PackageChange struct {
	Name string `json:"name"`          // the package's name
	Was  string `json:"was,omitempty"` // its version in the image; absent if it was not installed
	Now  string `json:"now,omitempty"` // its version in the VM; absent if it is not installed
}

// FileChange is a file or a directory that is not as in the image.
type FileChange struct {
	Path   string `json:"path"`            // from the root on
	Change string `json:"change"`          // `added`, `changed` or `deleted`
	Dir    bool   `json:"dir,omitempty"`   // it is a directory
	Files  int    `json:"files,omitempty"` // number of files in a directory that was added
	Size   Size   `json:"size_bytes"`      // of what was added or changed
}
