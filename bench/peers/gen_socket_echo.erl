%% gen_socket, 16 acceptors: -run gen_socket_echo main PORT
-module(gen_socket_echo).
-export([main/1]).

main([Port]) ->
    application:start(gen_socket),
    {ok, Listener} = gen_socket:listen(list_to_integer(Port),
        [{backlog, 4096}, {reuseaddr, true}, {nodelay, true}, {ip, {127,0,0,1}}]),
    [spawn_link(fun() -> accept(Listener) end) || _ <- lists:seq(1, 16)],
    receive stop -> ok end.

accept(Listener) ->
    {ok, Socket} = gen_socket:accept(Listener),
    Pid = spawn(fun() -> receive go -> echo(Socket) end end),
    gen_socket:controlling_process(Socket, Pid),
    Pid ! go,
    accept(Listener).

echo(Socket) ->
    case gen_socket:recv(Socket, 0) of
        {ok, Bytes} -> gen_socket:send(Socket, Bytes), echo(Socket);
        _ -> gen_socket:close(Socket)
    end.
