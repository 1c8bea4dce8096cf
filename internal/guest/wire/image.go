package wire

// ImageFile is the file in an image that was made from one of a container: what that says
// about its programs, as JSON.
const ImageFile = "/etc/banger/image.json"

// Image is what the agent needs of it.
type Image struct {
	Env []string `json:"env"` // variables: NAME=value
}
