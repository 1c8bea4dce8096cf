package wire

// ExportSubsystem is a subsystem of the SSH server on PortSSH, for root. It reads a line
// with the JSON of an Export, and answers with what that asks for. If it cannot, its exit
// status is not 0, and the reason is on its stderr.
const ExportSubsystem = "export@banger"

// Export asks for the guest's root file system as a tar archive: without what is mounted
// in it, such as /proc, the kernel's modules and Docker's data, and without what the agent
// keeps of the VM. Or it asks for Changes.
type Export struct {
	Changes bool     `json:"changes,omitempty"` // what differs from the image, as lines with the JSON of a Change
	Home    bool     `json:"home,omitempty"`    // with what is on the work disk, in place of what that hides
	Skip    []string `json:"skip,omitempty"`    // directories, relative to the root, whose files are left out
}

// MaxExport bounds the line of an Export.
const MaxExport = 64 << 10

// Change is one thing that a VM changed of its image. Paths and texts are base64 in JSON,
// whose strings cannot carry every byte.
type Change struct {
	Kind ChangeKind `json:"kind"`
	Path []byte     `json:"path"` // relative to the root
	Dir  bool       `json:"dir,omitempty"`
	Size int64      `json:"size,omitempty"` // of a file, in bytes
	Base []byte     `json:"base,omitempty"` // of a database: its text in the image
	Text []byte     `json:"text,omitempty"` // of a database or a list: its text in the VM
}

// ChangeKind says what a Change is.
type ChangeKind string

// The kinds of changes.
const (
	Added    ChangeKind = "added"
	Changed  ChangeKind = "changed"
	Deleted  ChangeKind = "deleted"
	Database ChangeKind = "database" // a list of the installed packages that has changed
	List     ChangeKind = "list"     // the list of a package's files, of a package that has changed
)
