package banger

import "context"

type operationKey struct{}

// WithOperation returns a context in which everything belongs to the operation
// with that id.
func WithOperation(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, operationKey{}, id)
}

// OperationIn returns the id of the operation that ctx belongs to, or "".
func OperationIn(ctx context.Context) string {
	id, _ := ctx.Value(operationKey{}).(string)
	return id
}
