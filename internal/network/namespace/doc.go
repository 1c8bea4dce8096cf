// Package namespace owns where an instance's network is: for a plain user a user
// namespace and its network namespace, for root the host's own. It makes one, finds it
// again through a VMM that runs inside, and runs bangerd's role there, a child that does
// one thing and ends. It also finds out why a host refuses namespaces. It does not know
// what the network looks like, or what the role does there: the caller gives it that as
// Work.
package namespace
