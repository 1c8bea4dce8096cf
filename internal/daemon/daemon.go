package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"syscall"

	"banger"
	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/event"
	"banger/internal/version"
	"banger/internal/vmm"
)

type daemon struct {
	env    Env
	dirs   config.Dirs
	config config.Config
	ready  *os.File // nil once reported, or if no client started this daemon
	lock   *lock
	log    *slog.Logger
	stop   chan struct{}
	server *api.Server

	mu     sync.Mutex
	socket *socket
	serves sync.WaitGroup
	broken chan error // why a listener failed
}

// Services is what the daemon serves, besides what it knows about itself.
type Services struct {
	VMs     banger.VMService
	Images  banger.ImageService
	Builds  banger.BuildService
	Network renumberer
	Events  *event.Hub
	Drivers vmm.Drivers
	Close   func() error // releases everything; VMs keep running
}

func (d *daemon) run(ctx context.Context) (err error) {
	syscall.Umask(0o077)
	if err := d.directories(); err != nil {
		return err
	}
	if d.lock, err = admit(ctx, d.dirs.DaemonLock()); err != nil {
		return d.unlogged(ctx, err)
	}
	defer func() {
		err = errors.Join(err, d.lock.close())
		if d.server != nil {
			d.server.Release()
		}
	}()
	log, file, err := openLog(d.dirs, d.config.LogLevel)
	if err != nil {
		return d.unlogged(ctx, err)
	}
	defer file.Close()
	d.log = log
	if d.ready != nil {
		err = leaveShell(file)
	}
	if err == nil {
		err = d.listenAndServe(ctx)
	}
	if err != nil {
		log.Error("ended", "err", err, "kind", banger.KindOf(err))
	}
	return err
}

// unlogged returns err, which occurred before the log was open, with a fix: it is
// about the state directory.
func (d *daemon) unlogged(ctx context.Context, err error) error {
	if banger.KindOf(err) != banger.Unknown || ctx.Err() != nil {
		return err
	}
	fix := "make " + d.dirs.State + " a directory that you can write to"
	if errors.Is(err, fs.ErrPermission) {
		fix = "sudo chown -R $USER " + d.dirs.State
	}
	return &banger.Error{Kind: banger.Unready, What: "start bangerd", Why: err, Fix: fix}
}

// listenAndServe listens before it opens the services: clients that connect
// meanwhile wait in the socket's queue instead of starting daemons of their own.
func (d *daemon) listenAndServe(ctx context.Context) (err error) {
	if d.socket, err = listen(d.dirs); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.socket.close()) }()
	if err := d.lock.publish(d.socket.path); err != nil {
		return fmt.Errorf("write %s: %w", d.dirs.DaemonLock(), err)
	}
	defer d.leaveGroup(ctx)()
	d.tellProblems()
	d.log.Info("starting", "pid", os.Getpid(), "version", version.Version, "socket", d.socket.path, "state", d.dirs.State)
	services, err := d.env.Open(ctx, d.env, d.dirs, d.config, d.log)
	if err != nil {
		// Clients in the queue must not find a daemon that is about to end.
		return errors.Join(err, d.lock.publish(""))
	}
	d.server = api.NewServer(services.VMs, services.Images, services.Builds, &host{d: d, services: services}, d.log)
	d.broken = make(chan error, 1)
	d.serve(d.socket)
	d.report(d.socket.path, nil)
	d.log.Info("serving", "driver", d.config.Driver)
	err = d.wait(ctx)
	return errors.Join(err, d.shutDown(services))
}

func (d *daemon) serve(s *socket) {
	d.serves.Go(func() {
		if err := d.server.Serve(s.listener); err != nil {
			select {
			case d.broken <- err:
			default:
			}
		}
	})
}

// wait returns when the daemon has to end. Until then it listens again whenever the
// socket is removed.
func (d *daemon) wait(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			d.log.Info("stopping", "why", context.Cause(ctx).Error())
			return nil
		case <-d.stop:
			d.log.Info("stopping", "why", "a client asked")
			return nil
		case err := <-d.broken:
			return fmt.Errorf("serve: %w", err)
		case <-d.socket.lost:
			if d.socket.listening() {
				continue
			}
			if err := d.move(); err != nil {
				return fmt.Errorf("listen again: %w", err)
			}
		}
	}
}

// move listens at the spare place after the socket was removed: whatever removed it
// may do so again. Connections stay open.
func (d *daemon) move() error {
	fresh, err := listenAt(d.dirs.SpareSocket())
	if err != nil {
		return err
	}
	d.log.Warn("the socket was removed; listening again", "was", d.socket.path, "socket", fresh.path)
	d.serve(fresh)
	old := d.socket
	d.mu.Lock()
	d.socket = fresh
	d.mu.Unlock()
	if err := d.lock.publish(fresh.path); err != nil {
		return err
	}
	return old.close()
}

// shutDown cancels all operations, waits until they are undone, and closes the
// services.
func (d *daemon) shutDown(services Services) error {
	err := d.lock.publish("")
	err = errors.Join(err, d.server.Shutdown())
	d.serves.Wait()
	err = errors.Join(err, services.Close())
	d.log.Info("stopped")
	return err
}
