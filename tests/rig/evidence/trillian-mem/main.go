// A Trillian log, server and sequencer in one process and in memory: the released programs need a database.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"sync"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/extension"
	tlog "github.com/google/trillian/log"
	"github.com/google/trillian/quota"
	"github.com/google/trillian/server"
	"github.com/google/trillian/server/admin"
	"github.com/google/trillian/server/interceptor"
	"github.com/google/trillian/storage"
	"github.com/google/trillian/storage/memory"
	"github.com/google/trillian/util/clock"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// dedup refuses a leaf it has seen, as the databases do; the storage in memory takes every leaf.
type dedup struct {
	storage.LogStorage
	mu   sync.Mutex
	seen map[int64]map[string]*trillian.LogLeaf
}

func (d *dedup) QueueLeaves(ctx context.Context, tree *trillian.Tree, leaves []*trillian.LogLeaf, queued time.Time) ([]*trillian.QueuedLogLeaf, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	known := d.seen[tree.TreeId]
	if known == nil {
		known = map[string]*trillian.LogLeaf{}
		d.seen[tree.TreeId] = known
	}
	out := make([]*trillian.QueuedLogLeaf, len(leaves))
	var fresh []*trillian.LogLeaf
	var places []int
	for i, leaf := range leaves {
		if old, ok := known[string(leaf.LeafIdentityHash)]; ok {
			out[i] = &trillian.QueuedLogLeaf{Leaf: old, Status: status.Newf(codes.AlreadyExists, "leaf already exists").Proto()}
			continue
		}
		fresh, places = append(fresh, leaf), append(places, i)
	}
	if len(fresh) > 0 {
		done, err := d.LogStorage.QueueLeaves(ctx, tree, fresh, queued)
		if err != nil {
			return nil, err
		}
		for i, leaf := range fresh {
			out[places[i]] = done[i]
			known[string(leaf.LeafIdentityHash)] = leaf
		}
	}
	return out, nil
}

func main() {
	endpoint := flag.String("rpc_endpoint", "", "host:port to listen on")
	flag.Parse()
	trees := memory.NewTreeStorage()
	registry := extension.Registry{
		AdminStorage: memory.NewAdminStorage(trees),
		LogStorage:   &dedup{LogStorage: memory.NewLogStorage(trees, nil), seen: map[int64]map[string]*trillian.LogLeaf{}},
		QuotaManager: quota.Noop(),
	}
	srv := grpc.NewServer(grpc.UnaryInterceptor(interceptor.ErrorWrapper))
	trillian.RegisterTrillianAdminServer(srv, admin.New(registry, nil))
	trillian.RegisterTrillianLogServer(srv, server.NewTrillianLogRPCServer(registry, clock.System))
	sequencer := tlog.NewOperationManager(tlog.OperationInfo{
		Registry:    registry,
		BatchSize:   1000,
		NumWorkers:  2,
		RunInterval: 20 * time.Millisecond,
		TimeSource:  clock.System,
	}, tlog.NewSequencerManager(registry, 0))
	go sequencer.OperationLoop(context.Background())
	listener, err := net.Listen("tcp", *endpoint)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(srv.Serve(listener))
}
